use ossmith_macros::model;

mod unknown {
    super::model!("no-such-model");
}

mod unsupported {
    super::model!("bad");
}

mod escape {
    super::model!("../models/nano");
}

mod absolute {
    super::model!("/models/mine/config.json");
}

mod not_a_name {
    super::model!(20);
}

fn main() {}
