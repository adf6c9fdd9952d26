//! Encryption: the server must be whom the certificate says.

use crate::scene::{Scene, Server};

/// The paths of a certificate for localhost and of its key.
pub fn certificate_for_localhost(scene: &Scene) -> (String, String) {
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate can be made");
    let write = |name: &str, pem: String| {
        let path = scene.file(name);
        std::fs::write(&path, pem).expect("a file can be written");
        path.into_os_string().into_string().expect("a path of ours")
    };
    (write("certificate.pem", made.cert.pem()), write("key.pem", made.signing_key.serialize_pem()))
}

#[test]
fn a_server_is_trusted_by_its_certificate_alone() {
    let scene = Scene::new();
    let (certificate, key) = certificate_for_localhost(&scene);
    let (certificate, key) = (&*certificate, &*key);
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
