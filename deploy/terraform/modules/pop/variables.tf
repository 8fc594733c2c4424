variable "name" {
  description = "The region as edges name it (node.region): \"fra\"."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$", var.name))
    error_message = "name: 1 to 22 of a-z, 0-9 and -: an edge's name is one with its instance's id behind it, of at most 40."
  }
}

variable "aws_region" {
  description = "Where it stands: \"eu-central-1\"."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.aws_region))
    error_message = "aws_region: as AWS writes it, for example \"eu-central-1\"."
  }
}

variable "cidr" {
  description = "Private network of this PoP, from the topology module."
  type        = string

  validation {
    condition     = can(cidrsubnet(var.cidr, 8, 0))
    error_message = "cidr: an IPv4 network, for example \"10.1.0.0/16\"."
  }
}

variable "edges" {
  description = "Edges that always run, and the most that autoscaling may run."
  type        = object({ min = number, max = number })

  validation {
    condition     = var.edges.min >= 1 && var.edges.max >= var.edges.min && var.edges.max <= 99
    error_message = "edges: min at least 1, max at least min, at most 99."
  }
}

variable "instance_type" {
  description = "What an edge runs on. Its lasting egress counts, not the burst: c7gn and c6in have it."
  type        = string
  default     = "c7i.2xlarge"
}

variable "ami_id" {
  description = "A Debian 12 (or newer) image in that region, for the instance type's architecture."
  type        = string

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "ami_id: as AWS writes it, for example \"ami-0123456789abcdef0\"."
  }
}

variable "bottleneck" {
  description = "What autoscaling follows: \"cores\" or \"egress\", from the capacity module."
  type        = string

  validation {
    condition     = contains(["cores", "egress"], var.bottleneck)
    error_message = "bottleneck: \"cores\" or \"egress\". If memory ends first, take another instance type."
  }
}

variable "busy_share" {
  description = "Share of the bottleneck that autoscaling keeps edges at, 0.1 to 0.9."
  type        = number
  default     = 0.6

  validation {
    condition     = var.busy_share >= 0.1 && var.busy_share <= 0.9
    error_message = "busy_share: 0.1 to 0.9."
  }
}

variable "egress_gbps" {
  description = "Egress of one edge that lasts, Gbit/s."
  type        = number

  validation {
    condition     = var.egress_gbps > 0 && var.egress_gbps <= 400
    error_message = "egress_gbps: more than 0, at most 400."
  }
}

variable "capacity" {
  description = "People one edge is meant to hold (node.capacity), from the capacity module."
  type        = number

  validation {
    condition     = var.capacity >= 1 && floor(var.capacity) == var.capacity
    error_message = "capacity: a whole number, 1 or more."
  }
}

variable "monthly_egress_usd_max" {
  description = "Dollars a month of this PoP's traffic at which somebody gets mail. Nothing is switched off: people would be cut off."
  type        = number

  validation {
    condition     = var.monthly_egress_usd_max > 0
    error_message = "monthly_egress_usd_max: more than 0."
  }
}

variable "cost_mail" {
  description = "Who gets that mail."
  type        = string

  validation {
    condition     = can(regex("^[^@ ]+@[^@ ]+$", var.cost_mail))
    error_message = "cost_mail: a mail address."
  }
}

variable "drain_s" {
  description = "Seconds that an edge may take to send its people elsewhere before its machine goes, 60 to 7200."
  type        = number
  default     = 300

  validation {
    condition     = var.drain_s >= 60 && var.drain_s <= 7200
    error_message = "drain_s: 60 to 7200, what a lifecycle hook may wait."
  }
}

variable "package" {
  description = "The program: an https URL of `meridian` for the instance's architecture, and its SHA-256."
  type        = object({ url = string, sha256 = string })

  validation {
    condition     = startswith(var.package.url, "https://") && can(regex("^[0-9a-f]{64}$", var.package.sha256))
    error_message = "package: an https URL and the file's SHA-256, 64 of 0-9 and a-f."
  }
}

variable "control_plane_url" {
  description = "The control plane's gRPC: https://host:8090."
  type        = string

  validation {
    condition     = startswith(var.control_plane_url, "https://")
    error_message = "control_plane_url: begins with https://."
  }
}

variable "etcd_endpoints" {
  description = "etcd's client URLs."
  type        = list(string)

  validation {
    condition     = length(var.etcd_endpoints) >= 1 && alltrue([for url in var.etcd_endpoints : can(regex("^http://[^/]+:[0-9]+$", url))])
    error_message = "etcd_endpoints: URLs like http://10.0.0.10:2379, over a private network."
  }
}

variable "secrets" {
  description = "Names in the Parameter Store (SecureString) of that region: `ca` (the mesh's ca.pem), `enrolment_token`, `tls_chain` and `tls_key` for HTTPS."
  type        = object({ ca = string, enrolment_token = string, tls_chain = string, tls_key = string })

  validation {
    condition     = alltrue([for name in values(var.secrets) : startswith(name, "/")])
    error_message = "secrets: names that begin with /, not the secrets themselves: those would stand in the state file."
  }
}

variable "dns" {
  description = "Under which name clients reach edges: <node>.<domain>. The certificate is for *.<domain>."
  type        = object({ domain = string, zone_id = string })
}

variable "operators" {
  description = "Networks from which /metrics and SSH are reached."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for network in var.operators : can(cidrhost(network, 0)) && !endswith(network, "/0")])
    error_message = "operators: networks, for example 203.0.113.0/24; not the whole internet."
  }
}
