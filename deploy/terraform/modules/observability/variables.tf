variable "aws_region" {
  description = "Where it stands: not the region whose loss it should tell of, if there is a choice."
  type        = string
}

variable "vpc_id" {
  description = "A network from which all PoPs' private addresses are reached."
  type        = string
}

variable "subnet_id" {
  description = "A subnet of it."
  type        = string
}

variable "regions" {
  description = "AWS regions whose machines are scraped."
  type        = list(string)

  validation {
    condition     = length(var.regions) >= 1
    error_message = "regions: at least one."
  }
}

variable "domain" {
  description = "Edges are <node>.<domain>, as in their certificates."
  type        = string
}

variable "page" {
  description = "The control plane's name, as in its certificate."
  type        = string
}

variable "ami_id" {
  description = "A Debian 12 (or newer) image in that region."
  type        = string
}

variable "instance_type" {
  description = "What Prometheus and Alertmanager run on."
  type        = string
  default     = "m7i.large"
}

variable "retention_days" {
  description = "Days that samples are kept."
  type        = number
  default     = 35

  validation {
    condition     = var.retention_days >= 31 && var.retention_days <= 400
    error_message = "retention_days: 31 to 400; the error budget looks back 30 days."
  }
}

variable "operators" {
  description = "Networks from which Prometheus and Alertmanager are reached. They have no password of their own."
  type        = list(string)

  validation {
    condition     = alltrue([for network in var.operators : can(cidrhost(network, 0)) && !endswith(network, "/0")])
    error_message = "operators: networks, for example 203.0.113.0/24; not the whole internet."
  }
}
