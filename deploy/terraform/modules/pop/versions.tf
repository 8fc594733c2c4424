terraform {
  required_version = ">= 1.9"
  required_providers {
    # 6.0 is the first whose resources take `region`, so that one provider serves every region of a map.
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}
