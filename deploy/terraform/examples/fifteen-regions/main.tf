# 34,500 viewers in fifteen regions. The networks are numbered, so that a region added later moves nobody.
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

  networks = {
    arn = 0
    bom = 1
    cdg = 2
    cpt = 3
    dub = 4
    fra = 5
    gru = 6
    hkg = 7
    iad = 8
    icn = 9
    lhr = 10
    nrt = 11
    pdx = 12
    sin = 13
    syd = 14
  }

  regions = {
    arn = { aws_region = "eu-north-1", ami_id = "ami-00000000000000000", viewers = 1000, edges_max = 5, monthly_egress_usd_max = 4000 }
    bom = { aws_region = "ap-south-1", ami_id = "ami-00000000000000000", viewers = 3000, edges_max = 9, monthly_egress_usd_max = 12000 }
    cdg = { aws_region = "eu-west-3", ami_id = "ami-00000000000000000", viewers = 2000, edges_max = 7, monthly_egress_usd_max = 8000 }
    cpt = { aws_region = "af-south-1", ami_id = "ami-00000000000000000", viewers = 500, edges_max = 4, monthly_egress_usd_max = 3000 }
    dub = { aws_region = "eu-west-1", ami_id = "ami-00000000000000000", viewers = 2000, edges_max = 7, monthly_egress_usd_max = 8000 }
    fra = { aws_region = "eu-central-1", ami_id = "ami-00000000000000000", viewers = 4000, edges_max = 11, monthly_egress_usd_max = 16000 }
    gru = { aws_region = "sa-east-1", ami_id = "ami-00000000000000000", viewers = 2000, edges_max = 7, monthly_egress_usd_max = 8000 }
    hkg = { aws_region = "ap-east-1", ami_id = "ami-00000000000000000", viewers = 1000, edges_max = 5, monthly_egress_usd_max = 4000 }
    iad = { aws_region = "us-east-1", ami_id = "ami-00000000000000000", viewers = 5000, edges_max = 13, monthly_egress_usd_max = 20000 }
    icn = { aws_region = "ap-northeast-2", ami_id = "ami-00000000000000000", viewers = 1500, edges_max = 6, monthly_egress_usd_max = 6000 }
    lhr = { aws_region = "eu-west-2", ami_id = "ami-00000000000000000", viewers = 3000, edges_max = 9, monthly_egress_usd_max = 12000 }
    nrt = { aws_region = "ap-northeast-1", ami_id = "ami-00000000000000000", viewers = 3000, edges_max = 9, monthly_egress_usd_max = 12000 }
    pdx = { aws_region = "us-west-2", ami_id = "ami-00000000000000000", viewers = 3000, edges_max = 9, monthly_egress_usd_max = 12000 }
    sin = { aws_region = "ap-southeast-1", ami_id = "ami-00000000000000000", viewers = 2000, edges_max = 7, monthly_egress_usd_max = 8000 }
    syd = { aws_region = "ap-southeast-2", ami_id = "ami-00000000000000000", viewers = 1500, edges_max = 6, monthly_egress_usd_max = 6000 }
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
