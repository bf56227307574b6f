# Postgres for MLflow's runs and logins.

resource "aws_db_subnet_group" "tracking" {
  name       = "${var.name}-tracking"
  subnet_ids = var.private_subnet_ids
}

resource "aws_security_group" "tracking" {
  name        = "${var.name}-tracking"
  description = "Postgres, from MLflow alone"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "tracking" {
  for_each                     = toset(var.tracking_security_group_ids)
  security_group_id            = aws_security_group.tracking.id
  referenced_security_group_id = each.value
  description                  = "Postgres from MLflow"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_db_parameter_group" "tracking" {
  name   = "${var.name}-tracking"
  family = "postgres17"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }
}

resource "aws_db_instance" "tracking" {
  identifier                  = "${var.name}-tracking"
  engine                      = "postgres"
  engine_version              = "17"
  instance_class              = var.database_class
  allocated_storage           = 20
  max_allocated_storage       = 100
  storage_encrypted           = true
  kms_key_id                  = aws_kms_key.storage.arn
  db_name                     = "mlflow"
  username                    = "mlflow"
  manage_master_user_password = true # RDS makes it and keeps it in Secrets Manager: it is in no file and not in the state
  db_subnet_group_name        = aws_db_subnet_group.tracking.name
  vpc_security_group_ids      = [aws_security_group.tracking.id]
  parameter_group_name        = aws_db_parameter_group.tracking.name
  publicly_accessible         = false
  multi_az                    = var.database_multi_zone
  backup_retention_period     = 7
  deletion_protection         = true
  final_snapshot_identifier   = "${var.name}-tracking-last"
  auto_minor_version_upgrade  = true
}
