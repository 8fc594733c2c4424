#!/usr/bin/env bash
# maxmind 5.0.7 (npm; mmdb-lib beneath it) with an IPv4-only database, of which @ip-location-db publishes one beside each combined one: an IPv6 address is not
# refused and not unknown, it gets the country of the IPv4 address that its first 32 bits spell. The MaxMind DB format (2.0, "ip_version"): 4 means
# that only IPv4 addresses are in the tree; libmaxminddb has an error for the attempt, PyPI maxminddb 3.2.0 raises ValueError.
# 2003:c0::1 (a German carrier) is looked up as 32.3.0.192: US. 2a02:8388::1 (Austria) as 42.2.131.136: HK. 2a01:e0a::1 (France) as 42.1.14.10: CN.
# getWithPrefixLength adds a prefix length that looks like any other. It hurts whoever picks a region, a relay or a rule of residency by it: half of
# the users are sent to another continent, and nothing in the answer tells them from the others.
# Seen: as said. Look up with the family's own file or the combined one, and compare metadata.ipVersion with the address before asking.
set -euo pipefail
command -v npm >/dev/null || { echo "needs node and npm" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund maxmind@5.0.7 mmdb-lib@3.0.3 @ip-location-db/geo-whois-asn-country-mmdb@2.3.2026061719
python3 -m venv v
v/bin/pip install --quiet --disable-pip-version-check maxminddb==3.2.0
cat > run.mjs <<'JS'
import { open } from "maxmind";
const name = "node_modules/@ip-location-db/geo-whois-asn-country-mmdb/geo-whois-asn-country";
const [four, both] = [await open(`${name}-ipv4.mmdb`), await open(`${name}.mmdb`)];
// The first 32 bits of an IPv6 address, as an IPv4 address.
const front = (address) =>
  address.split(":", 2).map((group) => parseInt(group, 16)).flatMap((group) => [group >> 8, group & 255]).join(".");
let wrong = 0;
for (const address of ["2003:c0::1", "2a02:8388::1", "2a01:e0a::1", "2804:14c::1"]) {
  const [seen, prefix] = four.getWithPrefixLength(address);
  const [as, right] = [four.get(front(address))?.country_code, both.get(address)?.country_code];
  console.log(`${address}: ${seen?.country_code}/${prefix} from the IPv4 file, as ${front(address)}: ${as}; ${right} from the combined one`);
  wrong += seen?.country_code === as && as !== right;
}
console.log(`ip_version of the file: ${four.metadata.ipVersion}, wrong countries: ${wrong} of 4`);
if (wrong !== 4 || four.metadata.ipVersion !== 4) {
  console.error("this has changed");
  process.exit(1);
}
JS
node run.mjs
v/bin/python - <<'PY'
import maxminddb

name = "node_modules/@ip-location-db/geo-whois-asn-country-mmdb/geo-whois-asn-country-ipv4.mmdb"
with maxminddb.open_database(name) as database:
    try:
        raise SystemExit(f"this has changed: {database.get('2003:c0::1')}")
    except ValueError as error:
        print("Python:", error)
PY
