//! Coordinates of common region names, so that an edge configured with `region = "fra"` needs no coordinates.

use crate::Location;

/// A known region.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Airport code.
    pub name: &'static str,
    pub city: &'static str,
    pub location: Location,
    /// Areas for residency rules: a continent in lower case (`eu`: the European Union and EEA; `europe`: the continent).
    pub areas: &'static [&'static str],
    /// What the large clouds call their regions there.
    pub aliases: &'static [&'static str],
}

const fn region(
    name: &'static str,
    city: &'static str,
    lat: f64,
    lon: f64,
    areas: &'static [&'static str],
    aliases: &'static [&'static str],
) -> Region {
    Region {
        name,
        city,
        location: Location { lat, lon },
        areas,
        aliases,
    }
}

const EU: &[&str] = &["eu", "europe"];
const EUROPE: &[&str] = &["europe"];
const US: &[&str] = &["us", "na"];
const CANADA: &[&str] = &["ca", "na"];
const NA: &[&str] = &["na"];
const ASIA: &[&str] = &["asia"];
const SA: &[&str] = &["sa"];
const OC: &[&str] = &["oceania"];
const AFRICA: &[&str] = &["africa"];

/// All known regions.
pub const REGIONS: &[Region] = &[
    region("ams", "Amsterdam", 52.31, 4.76, EU, &["europe-west4", "westeurope"]),
    region("arn", "Stockholm", 59.65, 17.92, EU, &["eu-north-1", "swedencentral"]),
    region(
        "cdg",
        "Paris",
        49.01,
        2.55,
        EU,
        &["eu-west-3", "europe-west9", "francecentral"],
    ),
    region("dub", "Dublin", 53.42, -6.27, EU, &["eu-west-1", "northeurope"]),
    region(
        "fra",
        "Frankfurt",
        50.03,
        8.57,
        EU,
        &["eu-central-1", "europe-west3", "germanywestcentral"],
    ),
    region("hel", "Helsinki", 60.32, 24.96, EU, &["europe-north1"]),
    region("lis", "Lisbon", 38.77, -9.13, EU, &[]),
    region(
        "mad",
        "Madrid",
        40.47,
        -3.56,
        EU,
        &["eu-south-2", "europe-southwest1", "spaincentral"],
    ),
    region(
        "mxp",
        "Milan",
        45.63,
        8.72,
        EU,
        &["eu-south-1", "europe-west8", "italynorth"],
    ),
    region("prg", "Prague", 50.10, 14.26, EU, &[]),
    region("vie", "Vienna", 48.11, 16.57, EU, &[]),
    region("waw", "Warsaw", 52.17, 20.97, EU, &["europe-central2", "polandcentral"]),
    region(
        "lhr",
        "London",
        51.47,
        -0.45,
        EUROPE,
        &["eu-west-2", "europe-west2", "uksouth"],
    ),
    region("osl", "Oslo", 60.19, 11.10, EU, &["norwayeast"]),
    region(
        "zrh",
        "Zurich",
        47.46,
        8.55,
        EUROPE,
        &["eu-central-2", "europe-west6", "switzerlandnorth"],
    ),
    region("ist", "Istanbul", 41.26, 28.74, EUROPE, &[]),
    region("atl", "Atlanta", 33.64, -84.43, US, &["us-east-atl"]),
    region("dfw", "Dallas", 32.90, -97.04, US, &["us-south1", "southcentralus"]),
    region("den", "Denver", 39.86, -104.67, US, &[]),
    region(
        "iad",
        "Ashburn",
        38.94,
        -77.46,
        US,
        &["us-east-1", "us-east4", "eastus"],
    ),
    region("cmh", "Columbus", 39.99, -82.88, US, &["us-east-2", "us-east5"]),
    region("lax", "Los Angeles", 33.94, -118.41, US, &["us-west2"]),
    region("mia", "Miami", 25.79, -80.29, US, &[]),
    region("ord", "Chicago", 41.97, -87.91, US, &["us-central1", "northcentralus"]),
    region(
        "pdx",
        "Portland",
        45.59,
        -122.60,
        US,
        &["us-west-2", "us-west1", "westus2"],
    ),
    region("sea", "Seattle", 47.45, -122.31, US, &[]),
    region("sfo", "San Francisco", 37.62, -122.38, US, &["us-west-1", "westus"]),
    region(
        "yul",
        "Montreal",
        45.47,
        -73.74,
        CANADA,
        &["ca-central-1", "northamerica-northeast1"],
    ),
    region(
        "yyz",
        "Toronto",
        43.68,
        -79.63,
        CANADA,
        &["northamerica-northeast2", "canadacentral"],
    ),
    region(
        "qro",
        "Querétaro",
        20.62,
        -100.19,
        NA,
        &["mx-central-1", "mexicocentral"],
    ),
    region("bog", "Bogotá", 4.70, -74.15, SA, &[]),
    region("eze", "Buenos Aires", -34.82, -58.54, SA, &[]),
    region(
        "gru",
        "São Paulo",
        -23.44,
        -46.47,
        SA,
        &["sa-east-1", "southamerica-east1", "brazilsouth"],
    ),
    region("scl", "Santiago", -33.39, -70.79, SA, &["southamerica-west1"]),
    region(
        "bom",
        "Mumbai",
        19.09,
        72.87,
        ASIA,
        &["ap-south-1", "asia-south1", "centralindia"],
    ),
    region("del", "Delhi", 28.56, 77.10, ASIA, &["asia-south2"]),
    region("maa", "Chennai", 12.99, 80.17, ASIA, &["southindia"]),
    region(
        "hkg",
        "Hong Kong",
        22.31,
        113.92,
        ASIA,
        &["ap-east-1", "asia-east2", "eastasia"],
    ),
    region(
        "icn",
        "Seoul",
        37.46,
        126.44,
        ASIA,
        &["ap-northeast-2", "asia-northeast3", "koreacentral"],
    ),
    region(
        "kix",
        "Osaka",
        34.43,
        135.24,
        ASIA,
        &["ap-northeast-3", "asia-northeast2", "japanwest"],
    ),
    region(
        "nrt",
        "Tokyo",
        35.77,
        140.39,
        ASIA,
        &["ap-northeast-1", "asia-northeast1", "japaneast"],
    ),
    region("tpe", "Taipei", 25.08, 121.23, ASIA, &["asia-east1"]),
    region(
        "sin",
        "Singapore",
        1.36,
        103.99,
        ASIA,
        &["ap-southeast-1", "asia-southeast1", "southeastasia"],
    ),
    region(
        "cgk",
        "Jakarta",
        -6.13,
        106.66,
        ASIA,
        &["ap-southeast-3", "asia-southeast2"],
    ),
    region("bkk", "Bangkok", 13.69, 100.75, ASIA, &["ap-southeast-7"]),
    region("dxb", "Dubai", 25.25, 55.36, ASIA, &["me-central-1", "uaenorth"]),
    region("tlv", "Tel Aviv", 32.01, 34.88, ASIA, &["il-central-1", "me-west1"]),
    region(
        "syd",
        "Sydney",
        -33.95,
        151.18,
        OC,
        &["ap-southeast-2", "australia-southeast1", "australiaeast"],
    ),
    region(
        "mel",
        "Melbourne",
        -37.67,
        144.84,
        OC,
        &["ap-southeast-4", "australia-southeast2"],
    ),
    region(
        "akl",
        "Auckland",
        -37.01,
        174.79,
        OC,
        &["ap-southeast-6", "newzealandnorth"],
    ),
    region(
        "jnb",
        "Johannesburg",
        -26.14,
        28.24,
        AFRICA,
        &["africa-south1", "southafricanorth"],
    ),
    region("cpt", "Cape Town", -33.97, 18.60, AFRICA, &["af-south-1"]),
    region("los", "Lagos", 6.58, 3.32, AFRICA, &[]),
    region("nbo", "Nairobi", -1.32, 36.93, AFRICA, &[]),
    region("cai", "Cairo", 30.12, 31.41, AFRICA, &[]),
];

/// Finds a region by its name or by a cloud's name for it, in any case, also with a suffix (`fra-1`, `fra2`).
pub fn find(name: &str) -> Option<&'static Region> {
    let name = name.trim().to_ascii_lowercase();
    let exact = |name: &str| {
        REGIONS
            .iter()
            .find(|region| region.name == name || region.aliases.contains(&name))
    };
    exact(&name).or_else(|| {
        let stem = name
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .trim_end_matches('-');
        (stem.len() == 3).then(|| exact(stem)).flatten()
    })
}

/// The city of the known region nearest to a place.
pub fn name_near(at: Location) -> String {
    let nearest = REGIONS
        .iter()
        .min_by(|a, b| crate::distance_km(at, a.location).total_cmp(&crate::distance_km(at, b.location)));
    nearest.map(|region| region.city.to_owned()).unwrap_or_default()
}

/// Whether a text means anything as a residency rule: a known region, or an area that one lies in.
pub fn is_rule(rule: &str) -> bool {
    REGIONS.iter().any(|known| lies_in(known.name, rule))
}

/// Whether a region satisfies one residency rule: its own name, or an area it lies in.
pub fn lies_in(region: &str, rule: &str) -> bool {
    region.eq_ignore_ascii_case(rule)
        || find(region).is_some_and(|known| {
            known.name.eq_ignore_ascii_case(rule) || known.areas.iter().any(|area| area.eq_ignore_ascii_case(rule))
        })
}

/// Whether a region satisfies any of some residency rules; no rules permit every region.
pub fn lies_within(region: &str, rules: &[String]) -> bool {
    rules.is_empty() || rules.iter().any(|rule| lies_in(region, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_once_and_lies_on_earth() {
        let mut seen = std::collections::BTreeSet::new();
        for region in REGIONS {
            assert!(Location::new(region.location.lat, region.location.lon).is_some());
            for name in region.aliases.iter().chain([&region.name]) {
                assert!(seen.insert(*name), "{name} twice");
                assert_eq!(find(name).unwrap().name, region.name);
            }
        }
    }

    #[test]
    fn names_of_sites_and_clouds_are_understood() {
        assert_eq!(find("FRA").unwrap().city, "Frankfurt");
        assert_eq!(find("sin-2").unwrap().name, "sin");
        assert_eq!(find("us-east-1").unwrap().name, "iad");
        assert!(find("nowhere").is_none() && find("").is_none());
    }

    #[test]
    fn residency_rules_name_regions_or_areas() {
        assert!(
            lies_in("fra", "eu") && lies_in("fra-1", "EU") && lies_in("fra", "fra") && lies_in("my-site", "my-site")
        );
        assert!(
            !lies_in("lhr", "eu") && lies_in("lhr", "europe") && !lies_in("iad", "eu") && !lies_in("my-site", "eu")
        );
    }
}
