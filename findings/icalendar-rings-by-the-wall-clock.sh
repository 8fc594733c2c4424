#!/usr/bin/env bash
# icalendar 7.3.2 and recurring-ical-events 3.8.2 (PyPI): the time of an alarm is reckoned on the wall clock, so if the clocks change between alarm and meeting it
# rings an hour late in spring and an hour early in autumn. RFC 5545 §3.3.6: hours, minutes and seconds of a duration are exact; where the time
# scale has a discontinuity, "the computation of the exact duration requires the subtraction or addition of the change". TRIGGER (§3.8.6.3) is
# such a duration. A meeting in Berlin at 04:00 on the spring night with TRIGGER:-PT3H rings at 01:00, two hours before; RELATED=END the same.
# It hurts whoever sends reminders by it: a meeting that people in another part of the world hold at a usual hour is at night here, and
# "three hours before" for a flight or a broadcast becomes two. An alarm as an absolute DATE-TIME in UTC is right everywhere.
# Seen: two hours for -PT3H before start and before end, from both packages; four hours in autumn; exact for the same meeting in UTC.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv v
v/bin/pip install --quiet --disable-pip-version-check icalendar==7.3.2 recurring-ical-events==3.8.2 tzdata
v/bin/python - <<'PY'
import sys
from datetime import timezone
import recurring_ical_events
from icalendar import Calendar


def meeting(start, end, trigger):
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//example//alarm//EN", "BEGIN:VEVENT", "UID:1@example.org", "DTSTAMP:20250101T000000Z"]
    lines += [f"DTSTART{start}", f"DTEND{end}", "BEGIN:VALARM", "ACTION:DISPLAY", "DESCRIPTION:soon", f"TRIGGER{trigger}", "END:VALARM"]
    return Calendar.from_ical("\r\n".join(lines + ["END:VEVENT", "END:VCALENDAR", ""]))


def hours(calendar, end):
    """Real hours from the alarm to the start (or the end), by icalendar and by recurring-ical-events."""
    event = calendar.events[0]
    anchor = (event.end if end else event.start).astimezone(timezone.utc)
    alarms = [event.alarms.times[0].trigger]
    for found in recurring_ical_events.of(calendar, components=["VALARM"]).between((2025, 1, 1), (2026, 1, 1)):
        alarms.append(found.alarms.times[0].trigger)
    return [(anchor - alarm.astimezone(timezone.utc)).total_seconds() / 3600 for alarm in alarms]


berlin = ";TZID=Europe/Berlin:"
seen = {
    "spring": hours(meeting(berlin + "20250330T040000", berlin + "20250330T050000", ":-PT3H"), False),
    "spring, end": hours(meeting(berlin + "20250330T010000", berlin + "20250330T040000", ";RELATED=END:-PT3H"), True),
    "autumn": hours(meeting(berlin + "20251026T040000", berlin + "20251026T050000", ":-PT3H"), False),
    "in UTC": hours(meeting(":20250330T020000Z", ":20250330T030000Z", ":-PT3H"), False),
}
print("real hours from the alarm to its meeting, three asked for:", seen)
if seen != {"spring": [2, 2], "spring, end": [2, 2], "autumn": [4, 4], "in UTC": [3, 3]}:
    sys.exit("this has changed")
PY
