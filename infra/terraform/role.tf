# What a worker of the cluster may do: read and write below storage/ in the one bucket, pull the one image, and nothing else.
# It may not delete versions, so a stolen node cannot destroy what was there before.

data "aws_iam_policy_document" "node_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "node" {
  # The whole bucket's names: limited to a prefix, S3 answers "forbidden" in place of "no such object".
  statement {
    sid       = "ListStorage"
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [aws_s3_bucket.storage.arn]
  }

  statement {
    sid       = "UseStorage"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${aws_s3_bucket.storage.arn}/storage/*"]
  }

  statement {
    sid       = "UseItsKey"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.storage.arn]
  }

  statement {
    sid       = "PullImages"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.images.arn]
  }

  statement {
    sid       = "LogInToRegistry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # this action knows no resource
  }
}

resource "aws_iam_role" "node" {
  name               = "${var.name}-node"
  assume_role_policy = data.aws_iam_policy_document.node_trust.json
}

resource "aws_iam_role_policy" "node" {
  name   = "storage-and-images"
  role   = aws_iam_role.node.id
  policy = data.aws_iam_policy_document.node.json
}

resource "aws_iam_instance_profile" "node" {
  name = "${var.name}-node"
  role = aws_iam_role.node.name
}

# The head of `ray up` starts and ends workers, which carry its cluster's tag; it may end no other machine and pass on no other role.
data "aws_caller_identity" "here" {}

locals {
  ec2 = "arn:aws:ec2:${var.region}:${data.aws_caller_identity.here.account_id}"
}

data "aws_iam_policy_document" "head" {
  source_policy_documents = [data.aws_iam_policy_document.node.json]

  statement {
    sid = "LookAround"
    actions = [
      "ec2:DescribeAvailabilityZones", "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeKeyPairs",
      "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
    ]
    resources = ["*"] # these actions know no resource
  }

  statement {
    sid     = "StartWorkers"
    actions = ["ec2:RunInstances"]
    resources = [
      "${local.ec2}:instance/*", "${local.ec2}:key-pair/*", "${local.ec2}:network-interface/*", "${local.ec2}:security-group/*",
      "${local.ec2}:subnet/*", "${local.ec2}:volume/*", "arn:aws:ec2:${var.region}::image/*",
    ]
  }

  statement {
    sid       = "TagWorkers"
    actions   = ["ec2:CreateTags"]
    resources = ["${local.ec2}:instance/*", "${local.ec2}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }

  statement {
    sid       = "ChangeItsWorkers"
    actions   = ["ec2:CreateTags", "ec2:StartInstances", "ec2:StopInstances", "ec2:TerminateInstances"]
    resources = ["${local.ec2}:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/ray-cluster-name"
      values   = [var.name]
    }
  }

  statement {
    sid       = "PassTheWorkersRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.node.arn]
  }
}

resource "aws_iam_role" "head" {
  name               = "${var.name}-head"
  assume_role_policy = data.aws_iam_policy_document.node_trust.json
}

resource "aws_iam_role_policy" "head" {
  name   = "storage-images-and-workers"
  role   = aws_iam_role.head.id
  policy = data.aws_iam_policy_document.head.json
}

resource "aws_iam_instance_profile" "head" {
  name = "${var.name}-head"
  role = aws_iam_role.head.name
}
