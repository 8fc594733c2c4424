variable "regions" {
  description = "The mesh in one map: by region's name, where AWS has it, its image, and how many watch there at most."
  type = map(object({
    aws_region             = string
    ami_id                 = string
    viewers                = number
    edges_max              = number
    monthly_egress_usd_max = number
  }))

  validation {
    condition     = length(distinct([for region in values(var.regions) : region.aws_region])) == length(var.regions)
    error_message = "regions: each its own aws_region."
  }
}

variable "home" {
  description = "The region of etcd, the control plane and Prometheus."
  type        = string

  validation {
    condition     = contains(keys(var.regions), var.home)
    error_message = "home: must be one of the regions."
  }
}

variable "edge" {
  description = "One edge: its instance type, and what it has of cores, lasting egress and memory."
  type        = object({ instance_type = string, cores = number, egress_gbps = number, memory_gib = number })
  default     = { instance_type = "c7i.2xlarge", cores = 8, egress_gbps = 3.125, memory_gib = 8 }
}

variable "packet_ns" {
  description = "Nanoseconds per forwarded packet on that instance type, by `./run bench fanout` there. The default was measured on another machine."
  type        = number
  default     = 1445
}

variable "cidr" {
  description = "Private network of the whole mesh."
  type        = string
  default     = "10.0.0.0/8"
}

variable "networks" {
  description = "Numbers of regions whose network must stay what it is: see the topology module."
  type        = map(number)
  default     = {}
}

variable "package" {
  description = "The program and the browser app: https URLs and SHA-256 sums."
  type        = object({ url = string, sha256 = string, web_url = string, web_sha256 = string })
}

variable "domain" {
  description = "Edges are <node>.<domain>; the page is meet.<domain>."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9-]+\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain: a DNS name in small letters, for example \"example.org\"."
  }
}

variable "zone_id" {
  description = "The Route 53 zone of that domain."
  type        = string
}

variable "secrets" {
  description = "Names in the Parameter Store, the same in every region."
  type        = object({ ca = string, ca_key = string, enrolment_token = string, operator_token = string, tls_chain = string, tls_key = string })
}

variable "operators" {
  description = "Networks from which machines and Prometheus are reached."
  type        = list(string)
  default     = []
}

variable "cost_mail" {
  description = "Who hears of traffic that costs more than planned."
  type        = string
}
