//! Reliable data skips nothing: those who send it wait for those who take it.

mod support;

use std::time::Duration;

use meridian_conference::{FromMesh, Input, Note, ToMesh};
use meridian_shard_api::{Command, Event, PeerId};
use meridian_signalling::proto::leave_request::Action;
use support::{Desk, farewell};

fn queue(desk: &mut Desk, peer: PeerId, full: bool) {
    desk.handle(Input::Media(Event::DataQueue { peer, full }));
}

/// Who was held back or released, since this was last asked.
fn held(desk: &mut Desk) -> Vec<(PeerId, bool)> {
    let commands = std::mem::take(&mut desk.commands);
    let mut held: Vec<_> = commands
        .into_iter()
        .filter_map(|command| match command {
            Command::HoldData { peer, held } => Some((peer, held)),
            _ => None,
        })
        .collect();
    held.sort();
    held
}

/// What the last word to other edges about it was.
fn told_elsewhere(desk: &mut Desk) -> Option<Duration> {
    let said = std::mem::take(&mut desk.mesh);
    said.into_iter().rev().find_map(|message| match message {
        ToMesh::Hold(pause) => Some(pause),
        _ => None,
    })
}

#[test]
fn everybody_waits_for_who_does_not_take_data_here_and_on_other_edges_until_it_has() {
    let mut desk = Desk::open(40);
    let ((_, ana), (_, ben)) = (desk.join_with_media("ana"), desk.join_with_media("ben"));
    assert_eq!(held(&mut desk), []);
    queue(&mut desk, ben, true);
    assert_eq!(held(&mut desk), [(ana, true), (ben, true)]);
    assert!(told_elsewhere(&mut desk).is_some_and(|pause| !pause.is_zero()));
    let (_, cleo) = desk.join_with_media("cleo");
    assert_eq!(held(&mut desk), [(cleo, true)], "who comes meanwhile waits, too");
    desk.pass(Duration::from_secs(1));
    assert!(
        told_elsewhere(&mut desk).is_some_and(|pause| !pause.is_zero()),
        "said again"
    );
    queue(&mut desk, ben, false);
    assert_eq!(held(&mut desk), [(ana, false), (ben, false), (cleo, false)]);
    assert_eq!(told_elsewhere(&mut desk), Some(Duration::ZERO));
    desk.pass(Duration::from_secs(60));
    assert_eq!((held(&mut desk), told_elsewhere(&mut desk)), (vec![], None));
    assert_eq!(desk.notes, []);
}

#[test]
fn who_has_not_caught_up_after_fifteen_seconds_is_disconnected_counted_and_waited_for_no_longer() {
    let mut desk = Desk::open(41);
    let ((_, ana), (slow, ben)) = (desk.join_with_media("ana"), desk.join_with_media("ben"));
    queue(&mut desk, ben, true);
    held(&mut desk);
    desk.pass(Duration::from_millis(14_900));
    assert_eq!(farewell(&desk.hear(slow)), None);
    desk.pass(Duration::from_millis(600));
    let (action, _) = farewell(&desk.hear(slow)).expect("a Leave");
    assert_eq!(action, Action::Reconnect);
    assert!(desk.closed[&slow].contains("reliable data"));
    assert_eq!(desk.notes, [Note::DataNotTaken]);
    assert_eq!(held(&mut desk), [(ana, false)]);
    assert_eq!(told_elsewhere(&mut desk), Some(Duration::ZERO));
}

#[test]
fn another_edges_wish_to_wait_ends_when_it_says_so_or_says_nothing_more() {
    let mut desk = Desk::open(42);
    let (_, ana) = desk.join_with_media("ana");
    let pause = |desk: &mut Desk, ms| desk.handle(Input::Mesh(FromMesh::Hold(Duration::from_millis(ms))));
    pause(&mut desk, 500);
    assert_eq!(held(&mut desk), [(ana, true)]);
    pause(&mut desk, 0);
    assert_eq!(held(&mut desk), [(ana, false)]);
    pause(&mut desk, u64::from(u32::MAX));
    assert_eq!(held(&mut desk), [(ana, true)]);
    desk.pass(Duration::from_millis(1_300));
    assert_eq!(
        held(&mut desk),
        [(ana, false)],
        "a second is the longest that one word holds"
    );
}
