//! By which proxy the API server is reached, as client-go decides.
//!
//! `proxy-url` of the kubeconfig's cluster comes first, and is used whatever `NO_PROXY` says. Else
//! the environment counts as in Go's `golang.org/x/net/http/httpproxy`.

use std::net::IpAddr;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use ipnet::IpNet;

/// A proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Proxy {
    /// Without a user and with a port; the scheme is that of `kind`.
    pub(super) uri: Uri,
    pub(super) kind: ProxyKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ProxyKind {
    /// HTTP's CONNECT, to the proxy in clear or by TLS, as the URI's scheme says.
    Http { authorization: Option<HeaderValue> },
    /// SOCKS version 5; the proxy looks the name up.
    Socks { user: Option<(String, String)> },
}

/// The proxy for a target. `named` is the cluster's `proxy-url`.
///
/// # Errors
/// What is wrong with the proxy's address, and who gave it.
pub(super) fn proxy_for(
    target: &Uri,
    named: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, String> {
    let named = named.filter(|named| !named.is_empty());
    if let Some(url) = named {
        // client-go wants a scheme here.
        return match url.contains("://") {
            true => parse(url, "proxy-url").map(Some),
            false => Err(unusable(url, "proxy-url")),
        };
    }
    let names = match target.scheme_str() {
        Some("http") => ["HTTP_PROXY", "http_proxy"],
        _ => ["HTTPS_PROXY", "https_proxy"],
    };
    let Some((name, url)) = first_of(names, env) else {
        return Ok(None);
    };
    let exceptions = first_of(["NO_PROXY", "no_proxy"], env).map(|(_, value)| value);
    if is_excepted(target, exceptions.as_deref().unwrap_or_default()) {
        return Ok(None);
    }
    parse(&url, name).map(Some)
}

/// The first of these variables that is not empty.
fn first_of(
    names: [&'static str; 2],
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    let set = |name| Some((name, env(name).filter(|value| !value.is_empty())?));
    names.into_iter().find_map(set)
}

fn parse(url: &str, from: &str) -> Result<Proxy, String> {
    let unusable = || unusable(url, from);
    // It is the library's reader of proxies that is wanted, and no choice.
    let any = Uri::from_static("http://any");
    let read = Matcher::builder().all(url.to_owned()).build();
    let read = read.intercept(&any).ok_or_else(unusable)?;
    let scheme = read.uri().scheme_str().unwrap_or_default();
    let (kind, port) = match scheme {
        "http" | "https" => {
            let authorization = read.basic_auth().cloned();
            let port = if scheme == "https" { 443 } else { 80 };
            (ProxyKind::Http { authorization }, port)
        }
        "socks5" | "socks5h" => {
            let user = read.raw_auth();
            let user = user.map(|(user, password)| (user.to_owned(), password.to_owned()));
            (ProxyKind::Socks { user }, 1080)
        }
        _ => return Err(unusable()),
    };
    let host = read.uri().host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(unusable)?;
    let port = read.uri().port_u16().unwrap_or(port);
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(format!("{host}:{port}"))
        .path_and_query("/")
        .build();
    let uri = uri.map_err(|_invalid| unusable())?;
    Ok(Proxy { uri, kind })
}

fn unusable(url: &str, from: &str) -> String {
    // What is before an @ may be a password.
    let shown = url.rsplit('@').next().unwrap_or_default();
    format!(
        "{from} names no proxy that can be used ({shown}); give one like http://192.0.2.1:3128, with \
         http, https or socks5"
    )
}

/// Whether a target is reached without the environment's proxy: this machine, and what `NO_PROXY`
/// names (addresses, prefixes, names with what is below them, `.names` below alone; each but a
/// prefix with a port or without; `*`).
fn is_excepted(target: &Uri, exceptions: &str) -> bool {
    let host = target.host().unwrap_or_default().to_lowercase();
    let host = host.trim_matches(['[', ']']);
    let port = target.port_u16().unwrap_or(match target.scheme_str() {
        Some("http") => 80,
        _ => 443,
    });
    let ip = host.parse::<IpAddr>().ok();
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    exceptions.split(',').any(|exception| {
        let exception = exception.trim().to_lowercase();
        if exception == "*" {
            return true;
        }
        if let Ok(prefix) = exception.parse::<IpNet>() {
            return ip.is_some_and(|ip| prefix.contains(&ip.to_canonical()));
        }
        let (name, of_port) = split_port(&exception);
        if name.is_empty() || of_port.is_some_and(|of_port| of_port != port) {
            return false;
        }
        if let Ok(excepted) = name.parse::<IpAddr>() {
            return ip == Some(excepted);
        }
        let name = name.strip_prefix('*').unwrap_or(name);
        match name.strip_prefix('.') {
            Some(_) => host.ends_with(name),
            None => {
                let above = host.strip_suffix(name);
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
        }
    })
}

/// A host and its port: `name:1`, `192.0.2.1:1`, `[::1]:1`, or one without a port.
fn split_port(exception: &str) -> (&str, Option<u16>) {
    let is_bare_ipv6 = exception.parse::<IpAddr>().is_ok();
    let split = exception.rsplit_once(':').filter(|_| !is_bare_ipv6);
    let (host, port) = match split {
        Some((host, port)) => (host, port.parse().ok()),
        None => (exception, None),
    };
    (host.trim_matches(['[', ']']), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(target: &str, named: Option<&str>, env: &[(&str, &str)]) -> Option<String> {
        let env = |name: &str| {
            let set = env.iter().find(|(set, _)| *set == name);
            set.map(|(_, value)| (*value).to_owned())
        };
        let proxy = proxy_for(&target.parse().unwrap(), named, &env).unwrap();
        proxy.map(|proxy| proxy.uri.to_string())
    }

    #[test]
    fn the_kubeconfigs_proxy_comes_before_the_environments_and_its_exceptions() {
        let env = [("HTTPS_PROXY", "http://env:1"), ("NO_PROXY", "*")];
        let named = Some("http://named:2");
        let proxy = chosen("https://api:6443", named, &env);
        assert_eq!(proxy.as_deref(), Some("http://named:2/"));
        assert_eq!(chosen("https://api:6443", Some(""), &env), None);
    }

    #[test]
    fn the_environments_proxy_is_that_of_the_targets_scheme() {
        let env = [("https_proxy", "secure:1"), ("HTTP_PROXY", "http://clear")];
        let proxy = |target| chosen(target, None, &env);
        assert_eq!(proxy("https://api").as_deref(), Some("http://secure:1/"));
        assert_eq!(proxy("http://api").as_deref(), Some("http://clear:80/"));
        let upper = [("https_proxy", "lower:1"), ("HTTPS_PROXY", "upper:1")];
        let proxy = chosen("https://api", None, &upper);
        assert_eq!(proxy.as_deref(), Some("http://upper:1/"));
        assert_eq!(chosen("https://api", None, &[("ALL_PROXY", "all:1")]), None);
    }

    #[test]
    fn this_machine_is_reached_without_the_environments_proxy() {
        let env = [("HTTPS_PROXY", "http://env:1")];
        for host in ["localhost", "127.0.0.1", "127.8.8.8:6443", "[::1]:6443"] {
            assert_eq!(chosen(&format!("https://{host}"), None, &env), None);
        }
    }

    #[test]
    fn exceptions_are_those_of_go() {
        let is = |target: &str, exceptions| is_excepted(&target.parse().unwrap(), exceptions);
        let name = "https://api.example.org:6443";
        for exceptions in [
            "*",
            "example.org",
            "EXAMPLE.org",
            ".example.org",
            "*.example.org",
            " other , api.example.org:6443",
        ] {
            assert!(is(name, exceptions), "{exceptions}");
        }
        for exceptions in [
            "",
            ",",
            "ample.org",
            "api.example.org:443",
            ".api.example.org",
            "10.0.0.0/8",
            "example",
        ] {
            assert!(!is(name, exceptions), "{exceptions}");
        }
        assert!(is("https://192.0.2.7", "192.0.2.0/24"));
        assert!(is("https://192.0.2.7", "192.0.2.7:443"));
        assert!(!is("https://192.0.2.7:6443", "192.0.2.7:443"));
        assert!(is("https://[2001:db8::7]:6443", "2001:db8::/32"));
        assert!(is("https://[2001:db8::7]:6443", "2001:db8::7"));
        assert!(is("https://[2001:db8::7]:6443", "[2001:db8::7]:6443"));
        assert!(!is("https://[2001:db8::7]:6443", "2001:db8::8"));
    }

    #[test]
    fn proxies_have_kinds_users_and_ports() {
        let socks = parse("socks5://me:a%40b@proxy", "proxy-url").unwrap();
        assert_eq!(socks.uri.to_string(), "socks5://proxy:1080/");
        let user = Some(("me".to_owned(), "a@b".to_owned()));
        assert_eq!(socks.kind, ProxyKind::Socks { user });
        let http = parse("https://me:secret@[2001:db8::1]", "proxy-url").unwrap();
        assert_eq!(http.uri.to_string(), "https://[2001:db8::1]:443/");
        let authorization = Some(HeaderValue::from_static("Basic bWU6c2VjcmV0"));
        assert_eq!(http.kind, ProxyKind::Http { authorization });
    }

    #[test]
    fn what_is_no_proxy_is_named_without_its_password() {
        for url in ["ftp://me:secret@host", "socks4://me:secret@host", "http://"] {
            let wrong = parse(url, "HTTPS_PROXY").unwrap_err();
            assert!(wrong.contains("HTTPS_PROXY"), "{wrong}");
            assert!(!wrong.contains("secret"), "{wrong}");
        }
        let target = Uri::from_static("https://api");
        assert!(proxy_for(&target, Some("proxy:3128"), &|_| None).is_err());
    }
}
