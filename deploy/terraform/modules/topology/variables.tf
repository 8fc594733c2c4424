variable "regions" {
  description = "Regions by the name that edges carry in node.region, usually a city's IATA code, with how many edges stand there."
  type        = map(object({ edges = number }))

  validation {
    condition     = length(var.regions) >= 1 && length(var.regions) <= 256
    error_message = "regions: 1 to 256 of them."
  }
  validation {
    condition     = alltrue([for name in keys(var.regions) : can(regex("^[a-z0-9]([a-z0-9-]{0,34}[a-z0-9])?$", name))])
    error_message = "regions: names are 1 to 36 of a-z, 0-9 and -, for example \"fra\": an edge's name is one with a number behind it, of at most 40."
  }
  validation {
    condition     = alltrue([for region in values(var.regions) : region.edges >= 1 && region.edges <= 99 && floor(region.edges) == region.edges])
    error_message = "regions: 1 to 99 edges each. More than that in one place is a second region."
  }
}

variable "cidr" {
  description = "Private network of the whole mesh; each region gets an eighth-bit share of it: 10.0.0.0/8 gives each a /16."
  type        = string
  default     = "10.0.0.0/8"

  validation {
    condition     = can(cidrsubnet(var.cidr, 8, 255)) && tonumber(split("/", var.cidr)[1]) <= 12
    error_message = "cidr: an IPv4 network of /12 or wider, for example 10.0.0.0/8."
  }
}

variable "networks" {
  description = "Numbers, 0 to 255, of regions whose network must stay what it is when others are added."
  type        = map(number)
  default     = {}

  validation {
    condition     = alltrue([for number in values(var.networks) : number >= 0 && number <= 255]) && length(distinct(values(var.networks))) == length(var.networks)
    error_message = "networks: each region its own number, 0 to 255."
  }
}

variable "etcd_regions" {
  description = "Where etcd's members stand: 1, 3 or 5, a region named twice holds two."
  type        = list(string)

  validation {
    condition     = contains([1, 3, 5], length(var.etcd_regions))
    error_message = "etcd_regions: 1, 3 or 5 members. An even number survives no more losses than one fewer; more than five only slow each write."
  }
  validation {
    condition     = alltrue([for name in var.etcd_regions : contains(keys(var.regions), name)])
    error_message = "etcd_regions: each must be one of the regions."
  }
  validation {
    condition = length(var.etcd_regions) == 1 || length(distinct(var.etcd_regions)) == 1 || alltrue([
      for name in distinct(var.etcd_regions) : length([for one in var.etcd_regions : one if one == name]) * 2 < length(var.etcd_regions)
    ])
    error_message = "etcd_regions: no region may hold a majority, or its loss ends etcd. Spread them over three regions, or keep all in one and know it."
  }
}

variable "etcd_rtt_ms" {
  description = "Measured round trips between etcd's regions, by names in order: { \"ams/fra\" = 8 }."
  type        = map(number)
  default     = {}

  validation {
    condition     = alltrue([for rtt in values(var.etcd_rtt_ms) : rtt > 0 && rtt < 80])
    error_message = "etcd_rtt_ms: more than 0, less than 80 ms. etcd farther apart takes elections for outages: choose regions that are closer."
  }
}
