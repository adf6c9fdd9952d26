//! Encryption: the server must be whom the certificate says.

use crate::scene::{Scene, Server};

#[test]
fn a_server_is_trusted_by_its_certificate_alone() {
    let scene = Scene::new();
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate can be made");
    let (certificate, key) = (scene.file("certificate.pem"), scene.file("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let server = Server::start(&scene, &["--tls-cert", certificate, "--tls-key", key]);
    scene.write(7, "a secret\n");
    scene.ship_once(&server, &["--tls"]).assert_failed(1, &["could not be delivered", "certificate"]);
    scene.ship_once(&server, &[]).assert_failed(1, &["could not be delivered"]);
    assert!(server.kept().is_empty());
    scene.write(8, &"a long secret\n".repeat(100_000));
    scene.ship_once(&server, &["--tls", "--ca-file", certificate]).assert_succeeded();
    assert_eq!(server.kept().len(), 2);
    scene.ship_once(&server, &["--tls", "--ca-file", key]).assert_failed(2, &["cannot be trusted"]);
}
