# One PoP on AWS: a network, edges as immutable instances in an autoscaling group, and who may reach them. An edge keeps nothing but its
# certificate, so that a new version is new machines.

locals {
  tags = { Name = "meridian-${var.name}", meridian-region = var.name, meridian-role = "edge" }

  # Ports as in the configuration below. `link` is for other edges only, but they are anywhere: mutual TLS keeps others out.
  open = {
    https     = { protocol = "tcp", from = 443, to = 443 }
    media     = { protocol = "udp", from = 10000, to = 10255 }
    link      = { protocol = "udp", from = 7900, to = 7900 }
    turn-udp  = { protocol = "udp", from = 3478, to = 3478 }
    turn-tcp  = { protocol = "tcp", from = 3478, to = 3478 }
    turn-peer = { protocol = "udp", from = 49152, to = 65535 }
  }
  families = { v4 = "0.0.0.0/0", v6 = "::/0" }
  openings = merge([for name, ports in local.open : { for family, network in local.families : "${name}-${family}" => merge(ports, { network = network }) }]...)
}

resource "aws_vpc" "pop" {
  region                           = var.aws_region
  cidr_block                       = var.cidr
  assign_generated_ipv6_cidr_block = true
  enable_dns_hostnames             = true
  tags                             = local.tags
}

resource "aws_internet_gateway" "pop" {
  region = var.aws_region
  vpc_id = aws_vpc.pop.id
  tags   = local.tags
}

data "aws_availability_zones" "pop" {
  region = var.aws_region
  state  = "available"
}

# Two zones: the loss of one leaves half of the edges.
resource "aws_subnet" "edges" {
  count                           = 2
  region                          = var.aws_region
  vpc_id                          = aws_vpc.pop.id
  availability_zone               = data.aws_availability_zones.pop.names[count.index]
  cidr_block                      = cidrsubnet(var.cidr, 8, count.index)
  ipv6_cidr_block                 = cidrsubnet(aws_vpc.pop.ipv6_cidr_block, 8, count.index)
  map_public_ip_on_launch         = true
  assign_ipv6_address_on_creation = true
  tags                            = local.tags
}

resource "aws_route_table" "pop" {
  region = var.aws_region
  vpc_id = aws_vpc.pop.id
  tags   = local.tags
}

# Beside the table, not in it: the mesh adds routes of its own, which a table with routes inside would take away again.
resource "aws_route" "internet_v4" {
  region                 = var.aws_region
  route_table_id         = aws_route_table.pop.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.pop.id
}

resource "aws_route" "internet_v6" {
  region                      = var.aws_region
  route_table_id              = aws_route_table.pop.id
  destination_ipv6_cidr_block = "::/0"
  gateway_id                  = aws_internet_gateway.pop.id
}

resource "aws_route_table_association" "edges" {
  count          = 2
  region         = var.aws_region
  subnet_id      = aws_subnet.edges[count.index].id
  route_table_id = aws_route_table.pop.id
}

resource "aws_security_group" "edge" {
  region      = var.aws_region
  name        = "meridian-edge-${var.name}"
  description = "Media, signalling, TURN and links of edges"
  vpc_id      = aws_vpc.pop.id
  tags        = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "open" {
  for_each          = local.openings
  region            = var.aws_region
  security_group_id = aws_security_group.edge.id
  ip_protocol       = each.value.protocol
  from_port         = each.value.from
  to_port           = each.value.to
  cidr_ipv4         = strcontains(each.value.network, ":") ? null : each.value.network
  cidr_ipv6         = strcontains(each.value.network, ":") ? each.value.network : null
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  for_each          = toset(var.operators)
  region            = var.aws_region
  security_group_id = aws_security_group.edge.id
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
  cidr_ipv4         = each.value
}

resource "aws_vpc_security_group_egress_rule" "all" {
  for_each          = local.families
  region            = var.aws_region
  security_group_id = aws_security_group.edge.id
  ip_protocol       = "-1"
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null
}

# An edge may read its own secrets, name itself in DNS, and say that it is drained.
resource "aws_iam_role" "edge" {
  name = "meridian-edge-${var.name}"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

data "aws_caller_identity" "current" {}

resource "aws_iam_role_policy" "edge" {
  name = "edge"
  role = aws_iam_role.edge.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = "ssm:GetParameter"
        Resource = [for name in values(var.secrets) : "arn:aws:ssm:${var.aws_region}:${data.aws_caller_identity.current.account_id}:parameter${name}"]
      },
      {
        Effect   = "Allow"
        Action   = "route53:ChangeResourceRecordSets"
        Resource = "arn:aws:route53:::hostedzone/${var.dns.zone_id}"
        Condition = {
          "ForAllValues:StringLike" = { "route53:ChangeResourceRecordSetsNormalizedRecordNames" = "${var.name}-*.${var.dns.domain}" }
        }
      },
      {
        Effect   = "Allow"
        Action   = "autoscaling:CompleteLifecycleAction"
        Resource = "arn:aws:autoscaling:${var.aws_region}:${data.aws_caller_identity.current.account_id}:autoScalingGroup:*:autoScalingGroupName/meridian-${var.name}"
      },
    ]
  })
}

resource "aws_iam_instance_profile" "edge" {
  name = "meridian-edge-${var.name}"
  role = aws_iam_role.edge.name
}

resource "aws_launch_template" "edge" {
  region                 = var.aws_region
  name_prefix            = "meridian-${var.name}-"
  image_id               = var.ami_id
  instance_type          = var.instance_type
  vpc_security_group_ids = [aws_security_group.edge.id]
  update_default_version = true
  user_data = base64gzip(templatefile("${path.module}/../../../cloud-init/edge.yaml.tftpl", {
    unit              = file("${path.module}/../../../systemd/meridian-edge.service")
    sysctl            = file("${path.module}/../../../systemd/meridian-sysctl.conf")
    sysusers          = file("${path.module}/../../../systemd/meridian-sysusers.conf")
    first_boot        = file("${path.module}/../../../cloud-init/edge-first-boot.sh")
    drain             = file("${path.module}/../../../cloud-init/edge-drain.sh")
    drain_unit        = file("${path.module}/../../../systemd/meridian-drain.service")
    drain_timer       = file("${path.module}/../../../systemd/meridian-drain.timer")
    region            = var.name
    aws_region        = var.aws_region
    capacity          = var.capacity
    package           = var.package
    control_plane_url = var.control_plane_url
    etcd_endpoints    = var.etcd_endpoints
    secrets           = var.secrets
    dns               = var.dns
    group             = "meridian-${var.name}"
  }))

  iam_instance_profile {
    arn = aws_iam_instance_profile.edge.arn
  }
  # Version 2 only, and not through a container: a request forged on an edge must not read its role.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  monitoring {
    enabled = true
  }
  tag_specifications {
    resource_type = "instance"
    tags          = local.tags
  }
}

resource "aws_autoscaling_group" "edges" {
  region                    = var.aws_region
  name                      = "meridian-${var.name}"
  min_size                  = var.edges.min
  max_size                  = var.edges.max
  vpc_zone_identifier       = aws_subnet.edges[*].id
  health_check_type         = "EC2"
  health_check_grace_period = 300
  # The oldest has the oldest version.
  termination_policies = ["OldestLaunchTemplate", "OldestInstance"]

  launch_template {
    id      = aws_launch_template.edge.id
    version = aws_launch_template.edge.latest_version
  }

  # It is gone when the edge says that its people are elsewhere, or when drain_s is over.
  initial_lifecycle_hook {
    name                 = "drain"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = var.drain_s
    default_result       = "CONTINUE"
  }

  # A new version: new machines first, one at a time.
  instance_refresh {
    strategy = "Rolling"
    preferences {
      min_healthy_percentage = 100
      max_healthy_percentage = 110
      instance_warmup        = 300
      auto_rollback          = true
    }
  }

  dynamic "tag" {
    for_each = local.tags
    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }
}

# Follows what ends first. Growing takes minutes: busy_share leaves room for them. Scaling in waits for the hook above.
resource "aws_autoscaling_policy" "busy" {
  region                    = var.aws_region
  name                      = "busy"
  autoscaling_group_name    = aws_autoscaling_group.edges.name
  policy_type               = "TargetTrackingScaling"
  estimated_instance_warmup = 300

  target_tracking_configuration {
    # Bytes a minute for egress, percent for cores.
    target_value = var.bottleneck == "egress" ? var.busy_share * var.egress_gbps * 1000000000 / 8 * 60 : 100 * var.busy_share

    predefined_metric_specification {
      predefined_metric_type = var.bottleneck == "egress" ? "ASGAverageNetworkOut" : "ASGAverageCPUUtilization"
    }
  }
}

resource "aws_budgets_budget" "egress" {
  name         = "meridian-${var.name}-egress"
  budget_type  = "COST"
  limit_amount = tostring(var.monthly_egress_usd_max)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  cost_filter {
    name   = "TagKeyValue"
    values = [format("user:meridian-region$%s", var.name)]
  }
  notification {
    comparison_operator        = "GREATER_THAN"
    threshold                  = 80
    threshold_type             = "PERCENTAGE"
    notification_type          = "FORECASTED"
    subscriber_email_addresses = [var.cost_mail]
  }
}
