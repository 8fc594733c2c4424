//! Coordinates, distance, and the round trip that a distance suggests.

use serde::{Deserialize, Serialize};

const EARTH_RADIUS_KM: f64 = 6371.0;
/// Light in fibre does about 200 km a millisecond; there and back, 100.
const FIBRE_KM_PER_RTT_MS: f64 = 100.0;
/// Cables do not follow great circles, and routers queue: what long paths measure against the great circle.
const PATH_STRETCH: f64 = 1.4;
/// Access network and first hops.
const ACCESS_MS: f64 = 8.0;

/// A point on Earth, in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// −90..=90, north positive.
    pub lat: f64,
    /// −180..=180, east positive.
    pub lon: f64,
}

impl Location {
    /// `None` for anything that is not on Earth.
    pub fn new(lat: f64, lon: f64) -> Option<Self> {
        ((-90.0..=90.0).contains(&lat) && (-180.0..=180.0).contains(&lon)).then_some(Location { lat, lon })
    }
}

/// What a database knows about an address.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Place {
    pub location: Option<Location>,
    /// ISO 3166-1 alpha-2, upper case.
    pub country: Option<String>,
    /// AF, AN, AS, EU, NA, OC, SA.
    pub continent: Option<String>,
    pub city: Option<String>,
    pub asn: Option<u32>,
}

/// Great-circle distance (haversine), 0 to about 20,015 km.
pub fn distance_km(a: Location, b: Location) -> f64 {
    let (lat_a, lat_b) = (a.lat.to_radians(), b.lat.to_radians());
    let half_lat = ((lat_b - lat_a) / 2.0).sin();
    let half_lon = ((b.lon - a.lon).to_radians() / 2.0).sin();
    let h = half_lat * half_lat + lat_a.cos() * lat_b.cos() * half_lon * half_lon;
    // Rounding may carry antipodes a hair past 1.
    2.0 * EARTH_RADIUS_KM * h.sqrt().min(1.0).asin()
}

/// The round trip in milliseconds that this distance suggests when nothing was measured. Real paths lie within about a factor of two.
pub fn predicted_rtt_ms(a: Location, b: Location) -> f64 {
    ACCESS_MS + distance_km(a, b) * PATH_STRETCH / FIBRE_KM_PER_RTT_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regions;

    fn at(name: &str) -> Location {
        regions::find(name).unwrap().location
    }

    #[test]
    fn distances_are_those_of_the_globe() {
        assert!((distance_km(at("fra"), at("iad")) - 6_540.0).abs() < 60.0);
        assert!((distance_km(at("fra"), at("sin")) - 10_270.0).abs() < 60.0);
        assert!(distance_km(at("fra"), at("fra")) < 1e-6);
        let (a, b) = (Location::new(0.0, 0.0).unwrap(), Location::new(0.0, 180.0).unwrap());
        assert!((distance_km(a, b) - 20_015.0).abs() < 1.0);
        let (a, b) = (
            Location::new(10.0, 179.5).unwrap(),
            Location::new(10.0, -179.5).unwrap(),
        );
        assert!(distance_km(a, b) < 111.0, "the date line is no wall");
    }

    #[test]
    fn round_trips_are_near_what_such_paths_measure() {
        for (a, b, measured) in [
            ("fra", "iad", 90.0),
            ("fra", "sin", 155.0),
            ("iad", "sfo", 60.0),
            ("fra", "ams", 8.0),
        ] {
            let predicted = predicted_rtt_ms(at(a), at(b));
            assert!(
                (measured / 2.0..measured * 2.0).contains(&predicted),
                "{a}-{b}: {predicted}"
            );
        }
    }

    #[test]
    fn nowhere_is_no_location() {
        assert!(Location::new(91.0, 0.0).is_none() && Location::new(0.0, f64::NAN).is_none());
    }
}
