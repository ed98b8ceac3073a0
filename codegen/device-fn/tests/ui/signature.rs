use ossmith_device_fn::device_fn;

#[device_fn]
fn narrow(x: u8) -> u32 {
    u32::from(x)
}

#[device_fn]
fn generic<T>(_x: T) -> u32 {
    1
}

#[device_fn(fast)]
fn arguments(x: u32) -> u32 {
    x
}

#[device_fn]
static LIMIT: f32 = 7.0;

fn main() {
    let _ = narrow(1) + generic(2) + arguments(3);
}
