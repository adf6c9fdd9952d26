//! The page for people: one file without anything from elsewhere. What it may do is said with it: run its own script, which is
//! known by a word that nobody else can guess, and ask this server.

use common::sys::process;

const PAGE: &str = include_str!("page.html");
const PLACE: &str = "@NONCE@";

/// The page, and the policy that goes with it.
pub fn fresh() -> (String, String) {
    let word = |_| process::random_word().unwrap_or_else(|_| process::monotonic_ns());
    let nonce = format!("{:016x}{:016x}", word(0), word(1));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    (PAGE.replace(PLACE, &nonce), policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_obeys_its_own_policy() {
        let (page, policy) = fresh();
        for elsewhere in [
            "http://",
            "https://",
            "src=",
            "@import",
            "url(",
            "<link rel=\"stylesheet",
            " style=\"",
            "innerHTML",
        ] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
        assert!(!page.contains(PLACE) && page.matches("nonce=\"").count() == 2);
        assert_ne!(policy, fresh().1);
    }
}
