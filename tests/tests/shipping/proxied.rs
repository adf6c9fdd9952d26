//! Through a real nginx that stands before the server.

use std::process::{Command, Stdio};

use holdfast_tests::machine::skip;
use holdfast_tests::outcome::Running;
use holdfast_tests::{DEADLINE, eventually};

use crate::scene::{Scene, Server, collector, terminate};

/// A proxy that takes files up to 1 MiB, each whole before it passes it on.
fn configuration(scene: &Scene, port: u16, server: u16) -> String {
    let at = scene.file("nginx");
    let at = at.display();
    format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
    fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
    upstream server {{ server 127.0.0.1:{server} max_fails=0; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 1m;
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_next_upstream off;
        }}
    }}
}}
"
    )
}

#[test]
fn through_nginx_everything_arrives_once_and_what_is_too_large_for_it_is_put_aside() {
    if !Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skip("through nginx", "nginx is not installed (Debian: nginx-light)");
    }
    let scene = Scene::new();
    let mut server = Server::start(&scene, &["--chance", "20", "--seed", "3"]);
    std::fs::create_dir(scene.file("nginx")).unwrap();
    // A port that is free now. Should somebody else take it, nginx ends and the test fails.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = scene.file("nginx/conf");
    std::fs::write(&path, configuration(&scene, free, server.port)).unwrap();
    let mut nginx =
        Running::start(Command::new("nginx").arg("-p").arg(scene.file("nginx")).arg("-c").arg(&path));
    eventually(DEADLINE, "nginx listens", || {
        assert_eq!(nginx.ended(), None, "{}", nginx.stderr());
        std::net::TcpStream::connect(("127.0.0.1", free)).map_err(|error| error.to_string())
    });
    for minute in 1..=100_u64 {
        scene.write(minute, &format!("{minute} {}\n", "x".repeat(minute as usize * 1000)));
    }
    scene.write(500, &"too large for it\n".repeat(200_000));
    let running =
        Running::start(collector(&scene.spool(), free).args(["--timeout", "2s", "--dist-interval", "1"]));
    eventually(DEADLINE, "all arrives but one", || {
        let account = scene.account();
        if (account.delivered, account.quarantined) == (100, 200_000) {
            Ok(())
        } else {
            Err(format!("{account:?}"))
        }
    });
    // While nobody is behind it, nginx says 502.
    server.kill();
    scene.write(600, "late\n");
    crate::scene::wait_for_log(&running, "502");
    server.restart(&[]);
    scene.wait_until_delivered("the server is found again");
    terminate(running);
    assert_eq!(server.kept().len(), 101);
    assert!(server.lines().values().all(|times| *times == 1));
    assert_eq!(scene.names(), ["500.dat.refused", "500.dat.refused.reason"]);
    let reason = std::fs::read_to_string(scene.spool().join("500.dat.refused.reason")).unwrap();
    assert!(reason.starts_with("413"), "{reason}");
}
