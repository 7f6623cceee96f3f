//! The search for a system call's decision by its number.

use super::assembler::{Assembler, JUMP_EQUAL, JUMP_GREATER_EQUAL, Label};
use super::compile::decide;
use super::rules::Decision;

/// A decision with the first number that it is for; the next range ends it.
type Range = (u32, Decision);

/// So many comparisons follow one another before a search pays.
const CHAIN: usize = 4;

/// What tells one decision from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    /// The range of this index begins, and ends with the next test of this kind.
    Begins(usize),
    /// The range of this index is one number within another decision.
    Is(usize),
}

/// Goes to the decision of the number that is loaded; `ranges` are all that it may be in.
///
/// A tree whose leaves are short chains. Profiles mostly are one decision with single numbers taken out of it, and
/// to tell such a number takes one comparison in a chain, where a search for ranges needs two.
pub(super) fn search(ranges: &[Range], code: &mut Assembler) -> Label {
    let tests = tests(ranges);
    if tests.len() <= CHAIN {
        return chain(ranges, &tests, code);
    }
    let (low, number, high) = split(ranges, &tests);
    let high = search(high, code);
    let low = search(low, code);
    code.jump(JUMP_GREATER_EQUAL, number, high, low)
}

/// The tests that find a number's range, in the order of the numbers.
fn tests(ranges: &[Range]) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut current = 0;
    for (at, (start, decision)) in ranges.iter().enumerate().skip(1) {
        if *decision == ranges[current].1 {
            // Goes on after a single number.
        } else if ranges.get(at + 1).is_some_and(|(next, after)| next - start == 1 && *after == ranges[current].1) {
            tests.push(Test::Is(at));
        } else {
            tests.push(Test::Begins(at));
            current = at;
        }
    }
    tests
}

fn chain(ranges: &[Range], tests: &[Test], code: &mut Assembler) -> Label {
    let mut next = decide(&ranges[0].1, code);
    // From the program's end: the numbers are asked for first, then which range begins last.
    for test in tests {
        if let Test::Begins(at) = *test {
            let begun = decide(&ranges[at].1, code);
            next = code.jump(JUMP_GREATER_EQUAL, ranges[at].0, begun, next);
        }
    }
    for test in tests.iter().rev() {
        if let Test::Is(at) = *test {
            let is = decide(&ranges[at].1, code);
            next = code.jump(JUMP_EQUAL, ranges[at].0, is, next);
        }
    }
    next
}

/// Two halves of the tests and the number that the second begins with: where a range begins, if one does near the
/// middle, since that spares the test for it; or else within a range, which is then in both.
fn split<'a>(ranges: &'a [Range], tests: &[Test]) -> (&'a [Range], u32, &'a [Range]) {
    let middle = tests.len() / 2;
    let near = |offset: &usize| {
        let begins = |at: usize| match tests[at] {
            Test::Begins(range) => Some(range),
            Test::Is(_) => None,
        };
        begins(middle - offset).or_else(|| begins(middle + offset))
    };
    if let Some(at) = (0..=tests.len() / 8).find_map(|offset| near(&offset)) {
        return (&ranges[..at], ranges[at].0, &ranges[at..]);
    }
    let last = match tests[middle - 1] {
        Test::Begins(at) => at,
        Test::Is(at) => at + 1,
    };
    // The last number of the range, whose length is not known to be more than one.
    let number = ranges[last + 1].0 - 1;
    let shared = number > ranges[last].0;
    (&ranges[..last + usize::from(shared)], number, &ranges[last..])
}

#[cfg(test)]
mod tests {
    use super::super::rules::Verdict;
    use super::*;

    fn ranges(of: &[(u32, Verdict)]) -> Vec<Range> {
        of.iter().map(|(start, verdict)| (*start, Decision::plain(*verdict))).collect()
    }

    #[test]
    fn single_numbers_are_told_by_one_test() {
        let ranges = ranges(&[(0, 1), (5, 2), (6, 1), (9, 3), (10, 1), (20, 2), (30, 4), (31, 2)]);
        assert_eq!(tests(&ranges), [Test::Is(1), Test::Is(3), Test::Begins(5), Test::Is(6)]);
    }
}
