variable "viewers" {
  description = "People who watch at once, by region."
  type        = map(number)

  validation {
    condition     = length(var.viewers) > 0 && alltrue([for count in values(var.viewers) : count >= 0 && floor(count) == count])
    error_message = "viewers: at least one region, each with a whole number of people, for example { fra = 5000 }."
  }
}

variable "cameras" {
  description = "Cameras that each viewer sees."
  type        = number
  default     = 1

  validation {
    condition     = var.cameras >= 0 && floor(var.cameras) == var.cameras
    error_message = "cameras: a whole number, 0 or more."
  }
}

variable "video_kbps" {
  description = "Video for one viewer of one camera, kbit/s."
  type        = number
  default     = 1150

  validation {
    condition     = var.video_kbps > 0
    error_message = "video_kbps: more than 0, for example 1150."
  }
}

variable "speakers" {
  description = "People who speak at once."
  type        = number
  default     = 2

  validation {
    condition     = var.speakers >= 0
    error_message = "speakers: 0 or more."
  }
}

variable "relayed_share" {
  description = "Share of viewers whose media goes through TURN, 0 to 1."
  type        = number
  default     = 0.1

  validation {
    condition     = var.relayed_share >= 0 && var.relayed_share <= 1
    error_message = "relayed_share: a share from 0 to 1, for example 0.1."
  }
}

variable "packet_ns" {
  description = "Nanoseconds of one core for a forwarded packet of video, as `./run bench fanout` measures on the machines in question."
  type        = number
  default     = 1445

  validation {
    condition     = var.packet_ns > 0
    error_message = "packet_ns: more than 0."
  }
}

variable "cores" {
  description = "Cores of one edge."
  type        = number
  default     = 8

  validation {
    condition     = var.cores >= 1
    error_message = "cores: at least 1."
  }
}

variable "egress_gbps" {
  description = "Egress of one edge that lasts, Gbit/s: not the burst that a provider advertises."
  type        = number
  default     = 10

  validation {
    condition     = var.egress_gbps > 0
    error_message = "egress_gbps: more than 0."
  }
}

variable "memory_gib" {
  description = "Memory of one edge for media and signalling, GiB."
  type        = number
  default     = 8

  validation {
    condition     = var.memory_gib > 0
    error_message = "memory_gib: more than 0."
  }
}

variable "busy_share" {
  description = "How much of an edge may be used, more than 0 to 1: the rest is for bursts and for the loss of a neighbour."
  type        = number
  default     = 0.6

  validation {
    condition     = var.busy_share > 0 && var.busy_share <= 1
    error_message = "busy_share: more than 0, at most 1, for example 0.6."
  }
}

variable "spare" {
  description = "Edges of each region that may fail without anybody missing them."
  type        = number
  default     = 1

  validation {
    condition     = var.spare >= 0 && floor(var.spare) == var.spare
    error_message = "spare: a whole number, 0 or more."
  }
}
