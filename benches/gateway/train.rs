//! What a gateway does all day, once over, for a build that learns which of its ways are worn: `scripts/release`. Nothing is measured here.

use super::{LARGE, Outcome, Stand, drive, sign_in};

/// Enough for the ways of a request to stand out from those of a start, few enough for a build without optimisation.
const REQUESTS: usize = 8_000;
const LOGINS: usize = 100;
const LARGE_TIMES: usize = 3;

pub async fn train() -> Outcome<()> {
    let mut stand = Stand::open(false).await?;
    let cookie = format!("cookie: {}\r\n", stand.cookie);
    let question = "x-original-method: GET\r\nx-original-uri: /in/x\r\n";
    let asked = format!("{question}{cookie}");
    let host = format!("localhost:{}", stand.public.port());
    let kinds =
        [("/in/x", &cookie), ("/pub/x", &String::new()), ("/auth/check", &asked), ("/auth/me", &cookie)];
    for (path, more) in kinds {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\naccept: */*\r\n{more}\r\n");
        drive::requests(stand.public, &request, REQUESTS).await?;
    }
    for _ in 0..LOGINS {
        sign_in::as_alice(stand.public).await?;
    }
    drive::large(stand.public, "/pub/large", false, (LARGE, LARGE_TIMES)).await?;
    drive::large(stand.public, "/pub/upload", true, (LARGE, LARGE_TIMES)).await?;
    // Killed, it would not write down what it learnt.
    stand.door.finish()
}
