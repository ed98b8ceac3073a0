use ossmith_device_fn::device_fn;

#[device_fn]
fn first(pair: [u32; 2]) -> u32 {
    let [a, _b] = pair;
    a
}

#[device_fn]
fn choose(x: u32) -> u32 {
    match x {
        0 => 1,
        _ => x,
    }
}

fn main() {
    first([choose(1), 2]);
}
