//! What is taken up from notes.

use super::*;

#[test]
fn what_is_taken_up_has_no_more_parts_than_it_had_and_no_moves() {
    let zero = |block| Extent { block, blocks: 1, place: 0, kind: Kind::Zero };
    let data = |block, place| Extent { block, blocks: 1, place, kind: Kind::Data };
    let moved = Kind::Moved { from: LogId::default(), place: 0 };
    let mut noted: Vec<_> = (0..2 * MOST_EXTENTS as u64).map(zero).collect();
    noted.extend([data(1, 0), data(2, 1), Extent { kind: moved, ..data(3, 2) }]);
    let layout = Layout::new(64 << 20);
    let start = layout.ring.start;
    let mut state = State::new(1 << 20, layout);
    assert!(state.restore(start, &noted));
    let parts = state.unstored().remove(0).extents;
    assert_eq!(parts[1], Extent { blocks: 2, ..data(1, 0) });
    assert_eq!((parts.len(), parts[0].blocks as usize), (2, 2 * MOST_EXTENTS));
    assert_eq!((state.map.get(2).is_some(), state.map.get(3)), (true, None));
    // Only moves: it is not needed.
    assert!(state.restore(start, &noted[noted.len() - 1..]) && state.unstored().len() == 1);
    // No notes.
    let beyond = data(7, MOST_BLOCKS);
    assert!(
        !state.restore(start, &[beyond]) && !state.restore(start, &[Extent { place: u32::MAX, ..beyond }])
    );
    let apart: Vec<_> = (0..=MOST_EXTENTS as u64).map(|number| zero(number * 2)).collect();
    assert!(!state.restore(start, &apart) && state.unstored().len() == 1);
}
