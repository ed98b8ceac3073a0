//! What a user sees when a `#[device_fn]` is refused: one golden compiler message a case.

#[test]
fn refusals_point_at_their_place() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
