//! The experts' activation.

use ossmith_device_fn::device_fn;

/// `1 / (1 + exp(-x))`.
#[device_fn]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Clamped SwiGLU: `g = min(gate, limit)`, `u = clamp(up, -limit, limit)`, `g * sigmoid(alpha * g) * (u + 1)`.
/// Source: openai/gpt-oss `torch/model.py` (alpha 1.702, limit 7).
#[device_fn]
#[must_use]
pub fn swiglu(gate: f32, up: f32, limit: f32, alpha: f32) -> f32 {
    let g = gate.min(limit);
    let u = up.clamp(-limit, limit);
    g * sigmoid(alpha * g) * (u + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swiglu_follows_its_formula_and_its_clamps() {
        for (gate, up) in
            [(0.5, -0.25), (-3.0, 2.0), (6.9, 6.9), (7.1, 0.0), (90.0, 90.0), (-90.0, -90.0)]
        {
            let (g, u) = (f64::from(gate).min(7.0), f64::from(up).clamp(-7.0, 7.0));
            let expected = g / (1.0 + (-1.702 * g).exp()) * (u + 1.0);
            let got = f64::from(swiglu(gate, up, 7.0, 1.702));
            assert!(
                (got - expected).abs() <= 1e-6 * expected.abs().max(1e-3),
                "swiglu({gate}, {up}) = {got}, not {expected}"
            );
        }
        // Gates are clamped from above only; both ends of up are.
        assert_eq!(swiglu(70.0, 0.5, 7.0, 1.702), swiglu(7.0, 0.5, 7.0, 1.702));
        assert_ne!(swiglu(-8.0, 0.5, 7.0, 1.702), swiglu(-7.0, 0.5, 7.0, 1.702));
        assert_eq!(swiglu(1.0, -70.0, 7.0, 1.702), swiglu(1.0, -7.0, 7.0, 1.702));
    }

    #[test]
    fn sigmoid_saturates_without_nan() {
        assert_eq!((sigmoid(-200.0), sigmoid(0.0), sigmoid(200.0)), (0.0, 0.5, 1.0));
    }
}
