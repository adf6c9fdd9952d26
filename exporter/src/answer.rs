//! What is answered to whom: a request's head in, a response out.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response, StatusCode};

use crate::gathering::{Desk, Wanted};
use crate::{metrics, page};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The page for people.
    Page,
    /// Numbers or the document.
    Fresh(Wanted),
    /// Nothing that there is, or not like this.
    Refused(StatusCode, &'static str),
}

const NOT_FOUND: Route =
    Route::Refused(StatusCode::NOT_FOUND, "there is /, /metrics and /status, and nothing else\n");
const NOT_ALLOWED: Route = Route::Refused(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD, and nothing else\n");
const MISDIRECTED: Route = Route::Refused(
    StatusCode::MISDIRECTED_REQUEST,
    "this address is for this machine alone: ask for localhost, or for its number\n",
);

/// What a request asks for. Over loopback it must name this machine: a browser that was told to read from another name
/// by a web site says that name.
pub fn route(method: &Method, path: &str, headers: &HeaderMap, over_loopback: bool) -> Route {
    if over_loopback && !headers.get_all(header::HOST).iter().all(is_this_machine) {
        return MISDIRECTED;
    }
    let found = match path {
        "/" => Route::Page,
        "/metrics" => Route::Fresh(Wanted::Metrics),
        "/status" => Route::Fresh(Wanted::Status),
        _ => return NOT_FOUND,
    };
    if matches!(*method, Method::GET | Method::HEAD) { found } else { NOT_ALLOWED }
}

fn is_this_machine(host: &HeaderValue) -> bool {
    let Ok(authority) = host.to_str() else { return false };
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(name, _port)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

/// Answers.
pub async fn answer(route: Route, desk: &Desk) -> Response<Full<Bytes>> {
    match route {
        Route::Refused(code, why) => respond(code, "text/plain; charset=utf-8", why.into()),
        Route::Page => {
            let (html, policy) = page::fresh();
            let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", html.into());
            set(&mut response, header::CONTENT_SECURITY_POLICY, &policy);
            response
        }
        Route::Fresh(wanted) => match (wanted, desk.ask(wanted).await) {
            (Wanted::Metrics, Some(gathered)) => {
                respond(StatusCode::OK, metrics::CONTENT_TYPE, gathered.text)
            }
            (Wanted::Status, Some(gathered)) => {
                let code = if gathered.up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                respond(code, "application/json", gathered.text)
            }
            (_, None) => respond(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain; charset=utf-8",
                "nobody looks any more\n".into(),
            ),
        },
    }
}

fn respond(code: StatusCode, media_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = code;
    let fixed = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if code == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn set(response: &mut Response<Full<Bytes>>, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &Method, path: &str, host: Option<&str>, over_loopback: bool) -> Route {
        let headers = host.map(|host| (header::HOST, HeaderValue::from_str(host).unwrap()));
        route(method, path, &headers.into_iter().collect(), over_loopback)
    }

    #[test]
    fn there_are_three_things_to_get() {
        for (path, expected) in [
            ("/", Route::Page),
            ("/metrics", Route::Fresh(Wanted::Metrics)),
            ("/status", Route::Fresh(Wanted::Status)),
            ("/metrics/", NOT_FOUND),
            ("//", NOT_FOUND),
            ("*", NOT_FOUND),
            ("/../etc/passwd", NOT_FOUND),
        ] {
            assert_eq!(asked(&Method::GET, path, None, true), expected, "{path}");
            assert_eq!(asked(&Method::HEAD, path, None, true), expected, "{path}");
        }
        for method in
            [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE, Method::CONNECT]
        {
            assert_eq!(asked(&method, "/status", None, true), NOT_ALLOWED, "{method}");
        }
    }

    #[test]
    fn over_loopback_only_who_asks_for_this_machine_is_answered() {
        let own = [
            "localhost",
            "localhost:80",
            "LOCALHOST.:1",
            "a.localhost:2",
            "127.0.0.1:31339",
            "[::1]:9",
            "[::1]",
        ];
        for host in own {
            assert_eq!(asked(&Method::GET, "/", Some(host), true), Route::Page, "{host}");
        }
        let others = [
            "evil.example",
            "evil.example:31339",
            "localhost.evil.example",
            "",
            "[evil",
            "127.0.0.1.example",
        ];
        for host in others {
            assert_eq!(asked(&Method::GET, "/", Some(host), true), MISDIRECTED, "{host}");
            assert_eq!(asked(&Method::GET, "/", Some(host), false), Route::Page, "{host}");
        }
    }
}
