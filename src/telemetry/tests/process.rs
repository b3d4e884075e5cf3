//! What is true of a whole process only: the log as `init` installs it, with the `log` crate's records and
//! panics in it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

use crate::telemetry::{Format, init};

#[test]
#[ignore = "runs in a process of its own, started by the test below"]
fn inside() {
    let guard = init(Format::Json, "trace,reqwest=trace,hyper=trace", None).unwrap();
    assert!(init(Format::Json, "info", None).is_err(), "a second log was installed");
    tracing::info!("listening");

    // A real client in a real call is the best source of what its libraries like to tell.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nset-cookie: canary\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("http://{address}/?code=canary")).bearer_auth("canary").send().unwrap();
    assert!(answer.status().is_success());
    server.join().unwrap();

    let secret = "canary";
    let _ = std::thread::spawn(move || panic!("the token was {secret}")).join();
    let _ = std::thread::spawn(|| panic!("a literal\nof two lines")).join();
    drop(guard);
}

#[test]
fn at_trace_level_a_process_tells_no_secret_and_panics_on_one_line() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "telemetry::tests::process::inside", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let log = String::from_utf8(child.stderr).unwrap();
    assert!(child.status.success(), "{log}\n{}", String::from_utf8_lossy(&child.stdout));
    assert!(!log.contains("canary"), "{log}");
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for event in &events {
        let ours = event["target"].as_str().unwrap().starts_with("doorward");
        assert!(ours || event["level"] == "WARN" || event["level"] == "ERROR", "a dependency told: {event}");
    }
    assert!(events.iter().any(|event| event["fields"]["message"] == "listening"), "{log}");
    let panics: Vec<_> = events.iter().filter(|event| event["fields"]["message"] == "panic").collect();
    assert_eq!(panics.len(), 2, "{log}");
    assert_eq!(panics[0]["fields"]["text"], "(text withheld)");
    assert_eq!(panics[1]["fields"]["text"], "a literal\nof two lines");
    assert!(panics[0]["fields"]["place"].as_str().unwrap().contains("process.rs:"), "{log}");
}
