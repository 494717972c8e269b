//! Lists and watches the network devices by rtnetlink(7): the only module that talks to it.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context;
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Devices;
use super::state::State;

/// How long to wait for further messages of a change.
const SETTLE: Duration = Duration::from_millis(20);
/// How long until a listing that failed is tried again: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// How many times as long as a listing took no other one is made: routing tables may be long, and
/// change all the time.
const REST: u32 = 20;

/// Lists the devices, and then follows their changes.
pub(crate) async fn watch() -> anyhow::Result<watch::Receiver<Devices>> {
    let (connection, handle, messages) = new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .context("the kernel's network devices cannot be watched; svclb must be root")?;
    tokio::spawn(connection);
    let begun = Instant::now();
    let mut state = read(&handle)
        .await
        .context("the network devices cannot be listed; svclb must be root")?;
    let (sender, receiver) = watch::channel(state.refresh().unwrap_or_default());
    let list = move || {
        let handle = handle.clone();
        async move { read(&handle).await }
    };
    let follower = Follower {
        state,
        list,
        retry: RETRY,
        delay: RETRY[0],
        rests_until: Instant::now() + begun.elapsed() * REST,
        sender,
    };
    tokio::spawn(follower.follow(messages.map(|(message, _)| Notice::of(message))));
    Ok(receiver)
}

/// What the kernel says of itself.
enum Notice {
    /// A message, and whether it has `NLM_F_REPLACE`.
    Message(Box<RouteNetlinkMessage>, bool),
    /// Messages were lost (`ENOBUFS`).
    Lost,
}

impl Notice {
    fn of(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Self> {
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                let replaces = message.header.flags & NLM_F_REPLACE != 0;
                Some(Self::Message(Box::new(inner), replaces))
            }
            NetlinkPayload::Overrun(_) => Some(Self::Lost),
            _ => None,
        }
    }
}

/// Keeps the devices up to date.
struct Follower<L> {
    state: State,
    list: L,
    /// How long until a listing that failed is tried again: at first, and at most.
    retry: [Duration; 2],
    /// The same, by now.
    delay: Duration,
    /// No listing is made before, but for what cannot wait.
    rests_until: Instant,
    sender: watch::Sender<Devices>,
}

impl<L, E, F> Follower<L>
where
    L: FnMut() -> F,
    E: Display,
    F: Future<Output = Result<State, E>>,
{
    /// Takes in messages until they end; lists where they leave something open. A listing that fails is
    /// tried again without another message.
    ///
    /// A change during a listing has a message of its own, which is taken in after it.
    async fn follow(mut self, messages: impl Stream<Item = Option<Notice>>) {
        tokio::pin!(messages);
        loop {
            tokio::select! {
                notice = messages.next() => {
                    let Some(notice) = notice else { return };
                    self.take(notice);
                    tokio::time::sleep(SETTLE).await;
                    while let Some(Some(notice)) = messages.next().now_or_never() {
                        self.take(notice);
                    }
                }
                () = tokio::time::sleep_until(self.rests_until), if self.state.is_stale() => {}
            }
            if self.state.is_stale() && Instant::now() >= self.rests_until {
                self.list().await;
            }
            if let Some(devices) = self.state.refresh() {
                self.sender.send_replace(devices);
            }
        }
    }

    fn take(&mut self, notice: Option<Notice>) {
        match notice {
            Some(Notice::Message(message, replaces)) => self.state.apply(&message, replaces),
            Some(Notice::Lost) => self.state.mark_stale(),
            None => {}
        }
    }

    async fn list(&mut self) {
        let [first, longest] = self.retry;
        let begun = Instant::now();
        match (self.list)().await {
            Ok(listed) => {
                if self.delay > first {
                    info!("the network devices can be listed again");
                }
                self.delay = first;
                self.rests_until = Instant::now() + begun.elapsed() * REST;
                self.state.replace(listed);
            }
            Err(error) => {
                if self.delay == first {
                    warn!("the network devices cannot be listed now: {error}");
                }
                self.rests_until = Instant::now() + self.delay;
                self.delay = (self.delay * 2).min(longest);
            }
        }
    }
}

async fn read(handle: &Handle) -> Result<State, rtnetlink::Error> {
    let mut state = State::default();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        state.new_link(&link);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await? {
        state.listed_address(&address);
    }
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut routes = handle.route().get(v4).execute();
    // One by one: there may be a million.
    while let Some(route) = routes.try_next().await? {
        state.new_route(&route, false);
    }
    let mut routes = handle.route().get(v6).execute();
    while let Some(route) = none_without_family(routes.try_next().await)? {
        state.new_route(&route, false);
    }
    Ok(state)
}

/// A kernel without IPv6 has none of its routes. Any other error is one.
fn none_without_family<T>(
    routes: Result<Option<T>, rtnetlink::Error>,
) -> Result<Option<T>, rtnetlink::Error> {
    match routes {
        Err(rtnetlink::Error::NetlinkError(error))
            if matches!(
                Errno::from_raw(error.raw_code().saturating_abs()),
                Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP
            ) =>
        {
            Ok(None)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroI32;
    use std::rc::Rc;

    use futures_util::stream;
    use rtnetlink::packet_core::ErrorMessage;

    use super::*;
    use crate::agent::devices::messages::{Shape, link, route};

    fn follower<L, E, F>(list: L) -> (Follower<L>, watch::Receiver<Devices>)
    where
        L: FnMut() -> F,
        E: Display,
        F: Future<Output = Result<State, E>>,
    {
        let (sender, receiver) = watch::channel(Devices::new());
        let retry = [Duration::from_millis(1), Duration::from_millis(4)];
        let follower = Follower {
            state: State::default(),
            list,
            retry,
            delay: retry[0],
            rests_until: Instant::now(),
            sender,
        };
        (follower, receiver)
    }

    fn eth0() -> Option<Notice> {
        let link = link(2, "eth0", Shape::ethernet(None));
        Some(Notice::Message(
            Box::new(RouteNetlinkMessage::NewLink(link)),
            false,
        ))
    }

    fn listing() -> State {
        let mut state = State::default();
        state.new_link(&link(3, "eth1", Shape::ethernet(None)));
        state
    }

    #[tokio::test]
    async fn a_listing_that_fails_is_tried_again_without_another_message() {
        let mut tries = 0;
        let (follower, mut listed) = follower(move || {
            tries += 1;
            let result = if tries < 4 {
                Err("busy")
            } else {
                Ok(listing())
            };
            std::future::ready(result)
        });
        // One message, and then nothing for ever.
        let messages = stream::iter([Some(Notice::Lost)]).chain(stream::pending());
        let task = tokio::spawn(follower.follow(messages));
        let limit = Duration::from_secs(10);
        let changed = tokio::time::timeout(limit, listed.changed()).await;
        assert!(changed.is_ok(), "it was not tried again");
        assert_eq!(listed.borrow()[&3].name, "eth1");
        task.abort();
    }

    #[tokio::test]
    async fn a_change_is_taken_in_without_a_listing() {
        let (follower, listed) = follower(|| -> std::future::Ready<Result<State, &str>> {
            unreachable!("nothing is left open")
        });
        follower.follow(stream::iter([eth0(), None])).await;
        assert_eq!(listed.borrow()[&2].name, "eth0");
    }

    #[tokio::test]
    async fn routes_that_come_and_go_are_listed_for_a_small_part_of_the_time() {
        const TOOK: Duration = Duration::from_millis(10);
        let listings = Rc::new(Cell::new(0));
        let counted = Rc::clone(&listings);
        let (follower, _listed) = follower(move || {
            counted.set(counted.get() + 1);
            async {
                tokio::time::sleep(TOOK).await;
                Ok::<_, &str>(listing())
            }
        });
        // The only route over a device, again and again.
        let hops = [(3, Some("192.0.2.1"))];
        let messages = stream::unfold(0, move |turn| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let route = route("10.0.0.0/8", &hops);
            let message = if turn % 2 == 0 {
                RouteNetlinkMessage::NewRoute(route)
            } else {
                RouteNetlinkMessage::DelRoute(route)
            };
            Some((Some(Notice::Message(Box::new(message), false)), turn + 1))
        });
        let limit = Duration::from_millis(1000);
        let ended = tokio::time::timeout(limit, follower.follow(messages)).await;
        assert!(ended.is_err());
        let made = listings.get();
        assert!((2..=6).contains(&made), "{made} listings");
    }

    #[test]
    fn only_a_kernel_without_ipv6_has_no_routes_of_it() {
        let listed = |errno: Errno| {
            let mut error = ErrorMessage::default();
            error.code = NonZeroI32::new(-(errno as i32));
            none_without_family::<()>(Err(rtnetlink::Error::NetlinkError(error)))
        };
        for errno in [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP] {
            assert_eq!(listed(errno).unwrap(), None);
        }
        for errno in [Errno::EBUSY, Errno::ENOBUFS, Errno::EPERM] {
            assert!(listed(errno).is_err(), "{errno} is taken for no routes");
        }
        assert!(none_without_family::<()>(Err(rtnetlink::Error::RequestFailed)).is_err());
    }
}
