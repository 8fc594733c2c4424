# Ten thousand viewers in three regions: Frankfurt (home), Virginia, Singapore.
# Names, images and sums are placeholders: see ../../README.md.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

provider "aws" {
  # Where what has no region of its own is asked for; everything else says its region.
  region = "eu-central-1"
}

module "mesh" {
  source = "../../modules/mesh"
  home   = "fra"

  regions = {
    fra = { aws_region = "eu-central-1", ami_id = "ami-00000000000000000", viewers = 5000, edges_max = 12, monthly_egress_usd_max = 20000 }
    iad = { aws_region = "us-east-1", ami_id = "ami-00000000000000000", viewers = 3000, edges_max = 8, monthly_egress_usd_max = 15000 }
    sin = { aws_region = "ap-southeast-1", ami_id = "ami-00000000000000000", viewers = 2000, edges_max = 6, monthly_egress_usd_max = 15000 }
  }

  package = {
    url        = "https://releases.example.org/meridian-0.1.0-amd64"
    sha256     = "0000000000000000000000000000000000000000000000000000000000000000"
    web_url    = "https://releases.example.org/meridian-web-0.1.0.tar.gz"
    web_sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
  }
  domain    = "example.org"
  zone_id   = "Z0000000000000000000"
  cost_mail = "ops@example.org"
  operators = ["203.0.113.0/24"]
  secrets = {
    ca              = "/meridian/ca"
    ca_key          = "/meridian/ca-key"
    enrolment_token = "/meridian/enrolment-token"
    operator_token  = "/meridian/operator-token"
    tls_chain       = "/meridian/tls-chain"
    tls_key         = "/meridian/tls-key"
  }
}

output "plan" {
  value = module.mesh.plan
}

output "page" {
  value = module.mesh.page
}
