//! Whoever asks, and however.

use std::time::Duration;

use holdfast_tests::web::{Answer, Caller, try_get};
use holdfast_tests::{Instance, Place, web};

use crate::scene::{SHOWN, exporter_of, scrape, shown_at};

fn shown() -> (Place, Instance, String) {
    let place = Place::new();
    let instance = place.instance().args(&SHOWN).start();
    let address = shown_at(&instance);
    (place, instance, address)
}

#[track_caller]
fn ask(address: &str, request: &str) -> Answer {
    let mut caller = Caller::to(address).unwrap();
    caller.send(request).unwrap();
    caller.answer(!request.starts_with("HEAD")).unwrap_or_else(|error| panic!("{request:?}: {error}"))
}

#[test]
fn every_request_gets_its_code() {
    let (_place, instance, address) = shown();
    let long = "x".repeat(20_000);
    let many = "X: y\r\n".repeat(200);
    for (request, code) in [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("GET /status?pretty HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("HEAD /status HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        ("DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 421),
        ("GET / HTTP/9.9\r\n\r\n", 400),
        ("GET\r\n\r\n", 400),
        ("\u{0}\u{1}\u{2}\u{3}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nNo header\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: x\r\nHost: localhost\r\n\r\n", 400),
        (&format!("GET /{long} HTTP/1.1\r\n\r\n"), 431),
        (&format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n"), 431),
        (&format!("GET / HTTP/1.1\r\n{many}\r\n"), 431),
    ] {
        let answer = ask(&address, request);
        let asked: String = request.chars().take(60).collect();
        let expected = if code == 431 && answer.code == 414 { 414 } else { code };
        assert_eq!(answer.code, expected, "{asked:?}: {}", answer.head);
    }
    // Another protocol is not answered at all.
    let mut caller = Caller::to(&address).unwrap();
    caller.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert_eq!(caller.rest().unwrap(), "");
    let refused = ask(&address, "PUT / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(refused.head.to_ascii_lowercase().contains("allow: get, head"), "{}", refused.head);
    instance.stop();
}

#[test]
fn what_comes_is_said_to_be_what_it_is() {
    let (_place, instance, address) = shown();
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("/status", "application/json"),
    ] {
        let answer = try_get(&address, path).unwrap();
        let head = answer.head.to_ascii_lowercase();
        for line in [
            &format!("content-type: {media_type}"),
            "cache-control: no-store",
            "x-content-type-options: nosniff",
        ] {
            assert!(head.contains(line), "{path}: {head}");
        }
        assert_eq!(path == "/", head.contains("content-security-policy: default-src 'none'"), "{head}");
    }
    let page = web::get(&address, "/");
    assert!(page.contains("name=\"viewport\"") && page.contains("lang=\"en\"") && !page.contains("@NONCE@"));
    instance.stop();
}

#[test]
fn requests_behind_each_other_are_answered_in_order() {
    let (_place, instance, address) = shown();
    let mut caller = Caller::to(&address).unwrap();
    caller.send("GET /status HTTP/1.1\r\nHost: localhost\r\n\r\nHEAD / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /no HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(caller.answer(true).unwrap().body.starts_with('{'));
    assert_eq!(caller.answer(false).unwrap().code, 200);
    assert_eq!(caller.answer(true).unwrap().code, 404);
    instance.stop();
}

#[test]
fn those_who_connect_and_say_nothing_keep_nobody_out() {
    let (_place, instance, address) = shown();
    let exporter = exporter_of(&instance);
    let mut idle: Vec<_> = (0..300).map(|_| Caller::to(&address).unwrap()).collect();
    for (number, caller) in idle.iter_mut().enumerate() {
        // Some have been let go already.
        let _ = caller.send(&b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: "[..number % 43]);
    }
    for _ in 0..10 {
        scrape(&address);
    }
    // The oldest are gone.
    idle[0].set_patience(Duration::from_secs(30)).unwrap();
    assert!(idle[0].rest().unwrap().is_empty());
    // Those who ask and do not read the answer, either.
    let mut deaf: Vec<_> = (0..100).map(|_| Caller::to(&address).unwrap()).collect();
    for caller in &mut deaf {
        let _ = caller.send("GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200));
    }
    for _ in 0..10 {
        scrape(&address);
    }
    assert_eq!(exporter_of(&instance).pid, exporter.pid, "it has not been replaced");
    instance.stop();
}

#[test]
fn garbage_ends_its_own_connection_and_nothing_else() {
    let (_place, instance, address) = shown();
    let exporter = exporter_of(&instance);
    let mut random = holdfast_tests::random::Random::new(8);
    for round in 0..300 {
        let mut caller = Caller::to(&address).unwrap();
        let mut bytes = vec![0; 1 + random.below([8, 200, 30_000][round % 3]) as usize];
        random.fill(&mut bytes);
        if round % 2 == 0 {
            bytes.splice(..0, *b"GET /status HTTP/1.1\r\n");
        }
        let _ = caller.send(bytes);
    }
    scrape(&address);
    assert_eq!(exporter_of(&instance).pid, exporter.pid, "it has not been replaced");
    instance.stop();
}
