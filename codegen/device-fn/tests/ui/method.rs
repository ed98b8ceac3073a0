use ossmith_device_fn::device_fn;

#[device_fn]
fn wave(x: f32) -> f32 {
    x.sin() + 1.0
}

fn main() {
    wave(1.0);
}
