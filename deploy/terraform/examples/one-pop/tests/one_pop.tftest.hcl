run "two_hundred_people_fit" {
  assert {
    condition     = strcontains(output.files["edge.toml"], "advertise = [\"203.0.113.7\"]") && output.capacity >= 200
    error_message = jsonencode(output.files)
  }
}

run "more_than_fit_are_refused_with_what_ends_first" {
  command = plan
  variables {
    viewers = 5000
  }
  expect_failures = [terraform_data.machine]
}

run "nonsense_is_refused" {
  command = plan
  variables {
    address = "meet.example.org"
  }
  expect_failures = [var.address]
}
