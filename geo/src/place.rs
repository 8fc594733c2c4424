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

/// A point on the unit sphere: distances between such points cost no trigonometry until the last step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unit(pub(crate) [f64; 3]);

impl Unit {
    pub(crate) fn of(location: Location) -> Self {
        let (lat, lon) = (location.lat.to_radians(), location.lon.to_radians());
        Unit([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()])
    }

    /// Square of the straight line through the Earth, in its radii: 0..=4.
    pub(crate) fn chord_squared(self, other: Unit) -> f64 {
        let square = |axis: usize| (self.0[axis] - other.0[axis]).powi(2);
        square(0) + square(1) + square(2)
    }
}

fn arc_km(chord_squared: f64) -> f64 {
    // Rounding may carry antipodes a hair past 1.
    2.0 * EARTH_RADIUS_KM * (chord_squared.sqrt() / 2.0).min(1.0).asin()
}

/// Great-circle distance, 0 to about 20,015 km.
pub fn distance_km(a: Location, b: Location) -> f64 {
    arc_km(Unit::of(a).chord_squared(Unit::of(b)))
}

/// The round trip in milliseconds that this distance suggests when nothing was measured. Real paths lie within about a factor of two.
pub fn predicted_rtt_ms(a: Location, b: Location) -> f64 {
    rtt_between(Unit::of(a), Unit::of(b))
}

/// [`predicted_rtt_ms`] of points prepared before.
pub(crate) fn rtt_between(a: Unit, b: Unit) -> f64 {
    ACCESS_MS + arc_km(a.chord_squared(b)) * PATH_STRETCH / FIBRE_KM_PER_RTT_MS
}

/// No path is faster than this, ms.
pub(crate) fn rtt_min_between(a: Unit, b: Unit) -> f64 {
    arc_km(a.chord_squared(b)) / FIBRE_KM_PER_RTT_MS
}

/// The inverse of [`rtt_between`], as [`Unit::chord_squared`]: nothing farther than this has a shorter predicted round trip.
pub(crate) fn chord_squared_within(rtt_ms: f64) -> f64 {
    let km = ((rtt_ms - ACCESS_MS) / PATH_STRETCH * FIBRE_KM_PER_RTT_MS).max(0.0);
    let half_angle = (km / EARTH_RADIUS_KM / 2.0).min(std::f64::consts::FRAC_PI_2);
    (2.0 * half_angle.sin()).powi(2)
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
    fn a_round_trip_leads_back_to_its_distance() {
        for (a, b) in [("fra", "ams"), ("fra", "sin"), ("akl", "mad")] {
            let chord = Unit::of(at(a)).chord_squared(Unit::of(at(b)));
            let back = chord_squared_within(predicted_rtt_ms(at(a), at(b)));
            assert!((chord - back).abs() < 1e-9, "{a}-{b}: {chord} {back}");
        }
        assert_eq!(chord_squared_within(0.0), 0.0);
        assert!(chord_squared_within(1e9) >= 4.0 - 1e-9);
    }

    #[test]
    fn nowhere_is_no_location() {
        assert!(Location::new(91.0, 0.0).is_none() && Location::new(0.0, f64::NAN).is_none());
    }
}
