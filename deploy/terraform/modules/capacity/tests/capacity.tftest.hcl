run "ten_thousand_viewers_in_three_regions" {
  command = plan
  variables {
    viewers       = { fra = 5000, iad = 3000, sin = 2000 }
    relayed_share = 0
    speakers      = 0
    cores         = 1
  }
  assert {
    condition     = output.edges == { fra = 2, iad = 1, sin = 1 }
    error_message = "not as `meridian plan` says: ${jsonencode(output.edges)}"
  }
  assert {
    condition     = output.edges_with_spares.fra == 3 && output.bottleneck == "cores"
    error_message = "one spare in each region, and cores end first"
  }
}

run "a_thin_line_ends_before_the_cores" {
  command = plan
  variables {
    viewers     = { fra = 2500 }
    egress_gbps = 1
    cores       = 64
  }
  assert {
    condition     = output.bottleneck == "egress" && output.edges.fra == 6
    error_message = "${output.bottleneck}, ${output.edges.fra}"
  }
}

run "a_region_without_viewers_has_an_edge_all_the_same" {
  command = plan
  variables {
    viewers = { fra = 0 }
  }
  assert {
    condition     = output.edges.fra == 1
    error_message = "none"
  }
}

run "half_a_person_is_refused" {
  command = plan
  variables {
    viewers = { fra = 0.5 }
  }
  expect_failures = [var.viewers]
}

run "shares_beyond_one_are_refused" {
  command = plan
  variables {
    viewers       = { fra = 1 }
    busy_share    = 1.5
    relayed_share = -0.1
  }
  expect_failures = [var.busy_share, var.relayed_share]
}
