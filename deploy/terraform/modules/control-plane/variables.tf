variable "name" {
  description = "The replica's name (id): \"control-1\"."
  type        = string
  default     = "control-1"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$", var.name))
    error_message = "name: 1 to 40 of a-z, 0-9 and -."
  }
}

variable "replicas" {
  description = "Control planes. One: this version keeps meetings in SQLite on one machine's disk."
  type        = number
  default     = 1

  validation {
    condition     = var.replicas == 1
    error_message = "replicas: 1. Replicas share a database, and this version's is SQLite, a file on one machine. What one lacks in spares, calls make up for: they go on without it."
  }
}

variable "aws_region" {
  description = "Where it stands: \"eu-central-1\"."
  type        = string
}

variable "vpc_id" {
  description = "The network of the PoP beside it."
  type        = string
}

variable "subnet_id" {
  description = "A subnet of that network for the control plane; its zone is the disk's."
  type        = string
}

variable "availability_zone" {
  description = "That subnet's zone: \"eu-central-1a\"."
  type        = string
}

variable "mesh_networks" {
  description = "Private networks of all PoPs: who may speak to etcd and to the gRPC port."
  type        = list(string)

  validation {
    condition     = length(var.mesh_networks) >= 1 && alltrue([for network in var.mesh_networks : can(cidrhost(network, 0)) && !endswith(network, "/0")])
    error_message = "mesh_networks: networks, for example [\"10.0.0.0/8\"]; etcd has no password, so never the whole internet."
  }
}

variable "instance_type" {
  description = "What the control plane runs on."
  type        = string
  default     = "m7i.large"
}

variable "etcd_instance_type" {
  description = "What etcd's members run on. They keep a few KB an edge."
  type        = string
  default     = "m7i.large"
}

variable "etcd" {
  description = "etcd's members with the subnet and private address of each, and its timing, from the topology module."
  type = object({
    members             = map(object({ subnet_id = string, address = string }))
    heartbeat_ms        = number
    election_timeout_ms = number
  })

  validation {
    condition     = contains([1, 3, 5], length(var.etcd.members))
    error_message = "etcd: 1, 3 or 5 members."
  }
  validation {
    condition     = var.etcd.election_timeout_ms >= 5 * var.etcd.heartbeat_ms
    error_message = "etcd: the election timeout is at least five heartbeats."
  }
}

variable "ami_id" {
  description = "A Debian 12 (or newer) image in that region."
  type        = string

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "ami_id: as AWS writes it, for example \"ami-0123456789abcdef0\"."
  }
}

variable "package" {
  description = "The program: an https URL of `meridian` and its SHA-256; and of the built browser app as a tar.gz."
  type        = object({ url = string, sha256 = string, web_url = string, web_sha256 = string })

  validation {
    condition     = startswith(var.package.url, "https://") && startswith(var.package.web_url, "https://") && alltrue([for sum in [var.package.sha256, var.package.web_sha256] : can(regex("^[0-9a-f]{64}$", sum))])
    error_message = "package: https URLs and SHA-256 sums, 64 of 0-9 and a-f."
  }
}

variable "secrets" {
  description = "Names in the Parameter Store (SecureString): the authority's `ca` and `ca_key` (`meridian pki create`), `enrolment_token`, `operator_token`, `tls_chain`, `tls_key`."
  type        = object({ ca = string, ca_key = string, enrolment_token = string, operator_token = string, tls_chain = string, tls_key = string })

  validation {
    condition     = alltrue([for name in values(var.secrets) : startswith(name, "/")])
    error_message = "secrets: names that begin with /, not the secrets themselves."
  }
}

variable "dns" {
  description = "The page's name, and its zone."
  type        = object({ name = string, zone_id = string })
}
