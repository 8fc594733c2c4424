//! `sqlx::migrate!` reads the migrations at compile time, which cargo does not see.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
