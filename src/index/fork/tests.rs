use serde::Deserialize;

use super::*;

/// Chains by the names of their blocks, as `fixtures/reorgs/scenarios.json` has them.
#[derive(Debug, Deserialize)]
struct Scenario {
    name: String,
    /// Blocks of the index from height `first` on.
    first: u32,
    index: Vec<String>,
    /// How many of them may be disconnected.
    reach: u32,
    /// Blocks of the node from height 0 on; null where it has none to give.
    node: Vec<Option<String>>,
    expected: Expected,
    /// Heights that are looked at.
    looks: Vec<u32>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Expected {
    OnChain,
    NodeBehind,
    AskIfInvalid(u32),
    Replaced(u32),
    ReplacedByOtherChain(u32),
    TooDeep,
    TooDeepOtherChain,
}

fn run(scenario: &Scenario) -> (Expected, Vec<u32>) {
    let blocks = scenario.index.len() as u32;
    let tip = scenario.first + blocks - 1;
    let held = Held {
        first: scenario.first,
        tip,
        lowest: tip + 1 - scenario.reach.min(blocks),
    };
    let (mut search, mut step) = Search::start(held, scenario.node.len() as u32 - 1);
    let mut looks = Vec::new();
    let ended = loop {
        let height = match step {
            Step::Look(height) => height,
            Step::OnChain => break Expected::OnChain,
            Step::NodeBehind => break Expected::NodeBehind,
            Step::AskIfInvalid(depth) => break Expected::AskIfInvalid(depth),
            Step::Replaced {
                depth,
                is_within_reach,
                may_be_other_chain,
            } => {
                break match (is_within_reach, may_be_other_chain) {
                    (true, false) => Expected::Replaced(depth),
                    (true, true) => Expected::ReplacedByOtherChain(depth),
                    (false, false) => Expected::TooDeep,
                    (false, true) => Expected::TooDeepOtherChain,
                };
            }
        };
        looks.push(height);
        let ours = &scenario.index[(height - scenario.first) as usize];
        let seen = match &scenario.node[height as usize] {
            None => Seen::Nothing,
            Some(theirs) if theirs == ours => Seen::Same,
            Some(_) => Seen::Other,
        };
        step = search.seen(height, seen);
    };
    (ended, looks)
}

#[test]
fn every_scenario_ends_as_it_is_written() {
    let text = include_str!("../../../fixtures/reorgs/scenarios.json");
    let scenarios: Vec<Scenario> = serde_json::from_str(text).expect("scenarios");
    assert_eq!(scenarios.len(), 15);
    for scenario in &scenarios {
        let (ended, looks) = run(scenario);
        assert_eq!(ended, scenario.expected, "{}", scenario.name);
        assert_eq!(looks, scenario.looks, "{}", scenario.name);
    }
}

/// Two chains with a common beginning, of every length up to six, over every reach and first height: the depth is what
/// is above the last common block.
#[test]
fn depth_is_what_lies_above_the_last_common_block() {
    let name = |chain: &str, height: u32, common: u32| match height < common {
        true => format!("common {height}"),
        false => format!("{chain} {height}"),
    };
    for (first, own, other, common, reach) in combinations(&[0..3, 1..6, 1..9, 0..9, 0..7]) {
        let tip = first + own - 1;
        let (node_tip, own_above) = (other - 1, (tip + 1).saturating_sub(common.max(first)));
        let scenario = Scenario {
            name: format!(
                "first {first}, own {own}, other {other}, common {common}, reach {reach}"
            ),
            first,
            index: (first..=tip)
                .map(|height| name("own", height, common))
                .collect(),
            reach,
            node: (0..=node_tip)
                .map(|height| Some(name("other", height, common)))
                .collect(),
            expected: Expected::OnChain,
            looks: Vec::new(),
        };
        let (ended, _) = run(&scenario);
        // What the node has in the place of the index's blocks.
        let is_replaced = node_tip >= common.max(first) && own_above > 0;
        let reach = reach.min(own);
        let has_common_in_index = common > first;
        let expected_depth = own_above;
        match ended {
            Expected::OnChain => assert!(own_above == 0 && node_tip >= tip, "{}", scenario.name),
            Expected::NodeBehind => assert!(!is_replaced && node_tip < tip, "{}", scenario.name),
            Expected::AskIfInvalid(depth) => {
                assert!(!is_replaced, "{}", scenario.name);
                assert_eq!(depth, tip - node_tip, "{}", scenario.name);
                assert!(depth <= reach);
            }
            Expected::Replaced(depth) => {
                assert!(is_replaced && depth <= reach, "{}", scenario.name);
                assert!(has_common_in_index && common > 1, "{}", scenario.name);
                assert_eq!(depth, expected_depth, "{}", scenario.name);
            }
            Expected::ReplacedByOtherChain(depth) => {
                assert!(is_replaced && depth <= reach, "{}", scenario.name);
                assert!(!has_common_in_index || common == 1, "{}", scenario.name);
                assert_eq!(depth, expected_depth, "{}", scenario.name);
            }
            Expected::TooDeep | Expected::TooDeepOtherChain => {
                assert!(is_replaced && expected_depth > reach, "{}", scenario.name);
            }
        }
    }
}

/// Every combination of the numbers of five ranges.
fn combinations(ranges: &[std::ops::Range<u32>; 5]) -> Vec<(u32, u32, u32, u32, u32)> {
    let [a, b, c, d, e] = ranges.clone();
    let mut all = Vec::new();
    for a in a {
        for b in b.clone() {
            for c in c.clone() {
                for d in d.clone() {
                    for e in e.clone() {
                        all.push((a, b, c, d, e));
                    }
                }
            }
        }
    }
    all
}
