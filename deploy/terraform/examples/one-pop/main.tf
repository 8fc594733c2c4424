# One PoP on one VM: control plane, etcd and edge on a machine that somebody has already, without a cloud. It makes nothing but the
# configuration that belongs there: `terraform output -json files` has it, and ../../README.md says what to do with it.

terraform {
  required_version = ">= 1.9"
}

variable "domain" {
  description = "The page's and the edge's name; its DNS record shows to the machine."
  type        = string
  default     = "meet.example.org"
}

variable "address" {
  description = "The machine's public address."
  type        = string
  default     = "203.0.113.7"

  validation {
    condition     = can(cidrhost("${var.address}/32", 0))
    error_message = "address: an IPv4 address."
  }
}

variable "viewers" {
  description = "People at once."
  type        = number
  default     = 200
}

variable "cores" {
  description = "The machine's cores."
  type        = number
  default     = 4
}

variable "egress_gbps" {
  description = "What its line carries for hours, Gbit/s."
  type        = number
  default     = 1
}

module "capacity" {
  source      = "../../modules/capacity"
  viewers     = { home = var.viewers }
  cores       = var.cores
  egress_gbps = var.egress_gbps
  spare       = 0
}

locals {
  files = {
    "edge.toml"          = <<-TOML
      [node]
      id = "home-1"
      region = "home"
      capacity = ${module.capacity.viewers_per_edge}
      [http]
      bind = "0.0.0.0:8443"
      public_url = "wss://${var.domain}:8443"
      public_addresses = ["${var.address}"]
      certificate = "/etc/meridian/tls/fullchain.pem"
      private_key = "/etc/meridian/tls/privkey.pem"
      [media]
      bind = ["0.0.0.0:10000"]
      advertise = ["${var.address}"]
      [turn]
      udp = ["0.0.0.0:3478"]
      tcp = ["0.0.0.0:3478"]
      advertise = ["${var.address}"]
      [link]
      bind = "127.0.0.1:7900"
      [registry]
      kind = "etcd"
      endpoints = ["http://127.0.0.1:2379"]
      [control_plane]
      url = "https://127.0.0.1:8090"
      [pki]
      directory = "/etc/meridian/pki"
    TOML
    "control-plane.toml" = <<-TOML
      data_directory = "/var/lib/meridian"
      [http]
      bind = "0.0.0.0:443"
      certificate = "/etc/meridian/tls/fullchain.pem"
      private_key = "/etc/meridian/tls/privkey.pem"
      web_directory = "/usr/share/meridian/web"
      [registry]
      kind = "etcd"
      endpoints = ["http://127.0.0.1:2379"]
    TOML
  }
}

# Terraform's own resource, which needs no provider's download.
resource "terraform_data" "machine" {
  input = local.files

  lifecycle {
    precondition {
      condition     = module.capacity.edges["home"] == 1
      error_message = "One machine does not hold ${var.viewers} people: ${module.capacity.bottleneck} ends first, at ${module.capacity.viewers_per_edge}. Take a larger one, or the example three-regions."
    }
  }
}

output "files" {
  description = "/etc/meridian/NAME each."
  value       = terraform_data.machine.output
}

output "capacity" {
  description = "People it holds."
  value       = module.capacity.viewers_per_edge
}
