//! The one binary.
fn main() {
    for c in smallfirst::api::crd::all() {
        println!("---\n{}", smallfirst::yaml::to_string(&c).unwrap());
    }
}
