//! What Doorward's answer to another proxy costs: `GET /auth/check`, as nginx's `auth_request` asks it.

use super::report::{Gate, Report, median};
use super::{Outcome, ROUNDS, Stand, round};

/// `product.md` 8, times nginx's bare `proxy_pass` of the same round.
const ASKED: Gate = Gate(0.75);

pub async fn forward(report: &mut Report, stand: &Stand) -> Outcome<()> {
    report.heading(
        "Forward-auth, 64 connections, one core: processor time of a question beside nginx's bare proxy_pass",
    );
    let question = |path: &str| format!("x-original-method: GET\r\nx-original-uri: {path}\r\n");
    let public = question("/pub/x");
    let signed_in = format!("{}cookie: {}\r\n", question("/in/x"), stand.cookie);
    let (mut bare, mut open, mut guarded) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ratio_open, mut ratio_guarded, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let nginx = round(stand.nginx.id(), stand.nginx_at, "/pub/x", "").await?.cpu_us;
        let nobody = round(stand.door.id(), stand.public, "/auth/check", &public).await?.cpu_us;
        let guest = round(stand.door.id(), stand.public, "/auth/check", &signed_in).await?.cpu_us;
        floor.push(round(stand.bare.id(), stand.bare_at, "/auth/check", &signed_in).await?.cpu_us / nginx);
        ratio_open.push(nobody / nginx);
        ratio_guarded.push(guest / nginx);
        bare.push(nginx);
        open.push(nobody);
        guarded.push(guest);
    }
    report.tell("nginx, bare proxy_pass", median(&mut bare), "µs");
    report.tell("Doorward is asked, public route", median(&mut open), "µs");
    report.tell("Doorward is asked, signed in", median(&mut guarded), "µs");
    report.tell("the same server with nine fixed fields, and nothing else", median(&mut floor), "× nginx");
    report.tell("public route", median(&mut ratio_open), "× nginx");
    report.hold("signed in", median(&mut ratio_guarded), "× nginx", ASKED);
    Ok(())
}
