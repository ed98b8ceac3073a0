use ossmith_device_fn::device_fn;

#[device_fn]
fn square(x: f32) -> f32 {
    x * x
}

#[device_fn]
fn bits(x: f32) -> u32 {
    square(x).to_bits()
}

fn main() {
    bits(1.0);
}
