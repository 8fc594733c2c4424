variables {
  regions      = { fra = { edges = 2 }, ams = { edges = 1 }, lhr = { edges = 1 }, sin = { edges = 1 } }
  etcd_regions = ["ams", "fra", "lhr"]
  etcd_rtt_ms  = { "ams/fra" = 8, "ams/lhr" = 9, "fra/lhr" = 14 }
}

run "names_networks_and_links" {
  command = plan
  assert {
    condition     = sort(keys(output.edges)) == tolist(["ams-1", "fra-1", "fra-2", "lhr-1", "sin-1"]) && output.edges["fra-2"].region == "fra"
    error_message = jsonencode(output.edges)
  }
  assert {
    condition     = output.cidrs == { ams = "10.0.0.0/16", fra = "10.1.0.0/16", lhr = "10.2.0.0/16", sin = "10.3.0.0/16" }
    error_message = jsonencode(output.cidrs)
  }
  assert {
    condition     = output.links == 10
    error_message = "5 edges have 10 links"
  }
}

run "etcd_is_as_patient_as_its_regions_are_far_apart" {
  command = plan
  variables {
    etcd_rtt_ms = { "ams/fra" = 8, "ams/lhr" = 70, "fra/lhr" = 75 }
  }
  assert {
    condition     = output.etcd.election_timeout_ms == 1000 && output.etcd.heartbeat_ms == 100
    error_message = jsonencode(output.etcd)
  }
}

run "all_of_etcd_in_one_region_needs_no_round_trips" {
  command = plan
  variables {
    etcd_regions = ["fra", "fra", "fra"]
    etcd_rtt_ms  = {}
  }
  assert {
    condition     = output.etcd.members == { etcd-1 = "fra", etcd-2 = "fra", etcd-3 = "fra" }
    error_message = jsonencode(output.etcd)
  }
}

run "an_even_number_of_members_is_refused" {
  command = plan
  variables {
    etcd_regions = ["fra", "ams"]
  }
  expect_failures = [var.etcd_regions]
}

run "a_region_with_a_majority_is_refused" {
  command = plan
  variables {
    etcd_regions = ["fra", "fra", "ams"]
  }
  expect_failures = [var.etcd_regions]
}

run "regions_too_far_apart_for_etcd_are_refused" {
  command = plan
  variables {
    etcd_rtt_ms = { "ams/fra" = 8, "ams/lhr" = 9, "fra/lhr" = 160 }
  }
  expect_failures = [var.etcd_rtt_ms]
}

run "a_pair_that_was_not_measured_is_named" {
  command = plan
  variables {
    etcd_rtt_ms = { "ams/fra" = 8 }
  }
  expect_failures = [output.etcd]
}

run "a_name_that_no_edge_could_carry_is_refused" {
  command = plan
  variables {
    regions = { "Fra 1" = { edges = 1 }, fra = { edges = 0 }, ams = { edges = 1 }, lhr = { edges = 1 } }
  }
  expect_failures = [var.regions]
}

run "two_regions_with_one_network_are_refused" {
  command = plan
  variables {
    networks = { sin = 1 }
  }
  expect_failures = [output.cidrs]
}
