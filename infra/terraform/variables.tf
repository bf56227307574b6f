variable "name" {
  description = "Begins the name of everything here; bucket names are unique in the world, so choose your own."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "name: 3 to 31 characters, small letters, digits and hyphens, a letter first."
  }
}

variable "region" {
  description = "Where everything stands, such as eu-central-1. Mind where the people in the videos live."
  type        = string
}

variable "vpc_id" {
  description = "The network that the cluster runs in."
  type        = string
}

variable "private_subnet_ids" {
  description = "Subnets without a way in from the internet, in at least two zones, for the database."
  type        = list(string)

  validation {
    condition     = length(var.private_subnet_ids) >= 2
    error_message = "private_subnet_ids: RDS asks for two zones, so name two subnets or more."
  }
}

variable "tracking_security_group_ids" {
  description = "Security groups of what runs MLflow: nobody else reaches the database."
  type        = list(string)
}

variable "days_to_live" {
  description = "Days after which what lies below a prefix is deleted: what jobs keep to go on. Raw videos are among the objects, and no age deletes those."
  type        = map(number)
  default     = { "storage/runs/" = 30 }

  validation {
    condition     = !anytrue([for prefix in keys(var.days_to_live) : startswith("storage/objects/", prefix)])
    error_message = "days_to_live: raw videos, shards and results are named by their content and shared; `stprivacy purge` deletes them, age must not."
  }
}

variable "deleted_days" {
  description = "Days that a deleted or overwritten object can still be brought back; after them it is gone, purged raw video included."
  type        = number
  default     = 7
}

variable "database_class" {
  description = "Size of the database of runs; MLflow is content with the smallest."
  type        = string
  default     = "db.t4g.micro"
}

variable "database_multi_zone" {
  description = "A standby in another zone: twice the price."
  type        = bool
  default     = false
}
