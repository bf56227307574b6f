output "storage" {
  description = "STPRIVACY_STORAGE"
  value       = "s3://${aws_s3_bucket.storage.bucket}/storage"
}

output "artifacts" {
  description = "mlflow server --artifacts-destination"
  value       = "s3://${aws_s3_bucket.storage.bucket}/mlflow"
}

output "registry" {
  description = "Where to push images, and `newName` in infra/k8s/site."
  value       = aws_ecr_repository.images.repository_url
}

output "database" {
  description = "Host and port of Postgres."
  value       = aws_db_instance.tracking.endpoint
}

output "database_secret" {
  description = "Name in Secrets Manager under which RDS keeps the password."
  value       = aws_db_instance.tracking.master_user_secret[0].secret_arn
}

output "head_profile" {
  description = "Instance profile of the head, for infra/ray/cluster.aws.yaml."
  value       = aws_iam_instance_profile.head.arn
}

output "node_profile" {
  description = "Instance profile of the workers, for infra/ray/cluster.aws.yaml."
  value       = aws_iam_instance_profile.node.arn
}
