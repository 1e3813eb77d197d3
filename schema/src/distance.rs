//! Distances between places on the globe.

/// The earth's mean radius in kilometres, by the International Union of Geodesy and Geophysics.
const RADIUS_KM: f64 = 6_371.008_8;

/// Kilometres between two places, each latitude and longitude in degrees, on a sphere, by the haversine formula.
pub fn kilometres(one: (f64, f64), other: (f64, f64)) -> f64 {
    let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
    let chord = half(one.0, other.0) + one.0.to_radians().cos() * other.0.to_radians().cos() * half(one.1, other.1);
    2.0 * RADIUS_KM * chord.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_map() {
        let evanston = (42.052158, -87.687866);
        let places = [
            ((41.897217, -87.6210423), 18.1),
            ((42.1900249, -87.9084039), 23.8),
            ((40.692532, -73.990997), 1151.6),
            ((49.24966, -123.11934), 2838.8),
        ];
        for (place, kilometres_away) in places {
            let tenths = |kilometres: f64| (kilometres * 10.0).round();
            assert_eq!(tenths(kilometres(evanston, place)), tenths(kilometres_away), "{place:?}");
            assert_eq!(kilometres(evanston, place), kilometres(place, evanston));
        }
        assert_eq!(kilometres(evanston, evanston), 0.0);
        assert_eq!(kilometres((0.0, 0.0), (0.0, 180.0)).round(), 20_015.0);
    }
}
