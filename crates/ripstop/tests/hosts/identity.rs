//! Certificates that live for seconds, under load.

use std::time::Duration;

use ripstop_testkit::wait;

use crate::lab::{Calls, Lab, PATIENCE, STRICT, callers, relay, with_rights};

/// Each request of the caller is a connection between the sidecars, and so a handshake.
const HANDSHAKES: &str = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: users}
spec:
  host: users
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
";

/// Serial number and issuer of what listens on the only port of 10.9.0.2, as anybody sees them.
const LOOK: &str = "
import ssl, subprocess, sys
pem = ssl.get_server_certificate((sys.argv[1], int(sys.argv[2])))
print(subprocess.run(['openssl', 'x509', '-noout', '-serial', '-issuer'], input=pem, text=True, capture_output=True).stdout)
";

#[test]
fn renewals_and_a_rotation_cost_no_call() {
    with_rights("identity::renewals_and_a_rotation_cost_no_call", || {
        ripstop_testkit::program("openssl");
        let lab = Lab::new(callers()[0], &["a", "b"]);
        let (a, b) = (lab.host("a"), lab.host("b"));
        a.write("config/mesh.yaml", &format!("{STRICT}{HANDSHAKES}"));
        let short = [
            "--certificate-lifetime",
            "8s",
            "--intermediate-lifetime",
            "24s",
        ];
        let _control = a.control(&short);
        a.invite(b, "users", &[]);
        a.invite(a, "client", &[]);
        let _users = relay(b, a, "users", "80:8080");
        a.ready("users-0.default");
        let port = b.listening().pop_first().unwrap();
        let look = || {
            let text = LOOK
                .replace("sys.argv[1]", "'10.9.0.2'")
                .replace("sys.argv[2]", &port.to_string());
            let mut looking = a.python(&text);
            assert!(looking.wait(PATIENCE).success(), "{}", looking.report());
            let said = looking.stdout();
            let mut lines = said.lines().map(str::to_owned);
            (lines.next().unwrap(), lines.next().unwrap())
        };
        let calls = Calls::begin(a, a, "http://users/x", "POST");
        let (first, issuer) = look();
        let (mut serials, mut issuers) = (vec![first], vec![issuer]);
        wait::until_true(PATIENCE, "three renewals and a rotation", || {
            std::thread::sleep(Duration::from_millis(500));
            let (serial, issuer) = look();
            if !serials.contains(&serial) {
                serials.push(serial);
            }
            if !issuers.contains(&issuer) {
                issuers.push(issuer);
            }
            serials.len() > 3 && issuers.len() > 1
        });
        let (made, failed) = calls.end();
        assert!(made > 50 && failed == 0, "{failed} of {made}");
    });
}
