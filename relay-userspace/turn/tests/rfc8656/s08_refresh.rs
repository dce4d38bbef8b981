//! §8 Refreshing an allocation.

use super::script::check;

#[test]
fn a_refresh_counts_from_now() {
    check(
        "alice allocates; 599s pass; alice refreshes => ok 600; 599s pass => nothing; 1s pass \
         => close",
    );
    check(
        "alice allocates; alice refreshes lifetime=1000 => ok 1000; 999s pass => nothing; 1s pass \
         => close",
    );
    check("alice allocates lifetime=3600; alice refreshes => ok 600; 600s pass => close");
    check("alice allocates; alice refreshes lifetime=1 => ok 600");
    check("alice allocates; alice refreshes lifetime=3601 => ok 3600");
    check("alice allocates; alice refreshes attribute=000d/5 => 400");
}

#[test]
fn a_lifetime_of_zero_ends_the_allocation() {
    check("alice allocates; alice refreshes lifetime=0 => close, ok 0; alice refreshes => 437");
    check(
        "alice allocates; alice binds 4000 to bob; alice binds 4001 to carol; \
         alice refreshes lifetime=0 => withdraw 4000, withdraw 4001, close, ok 0",
    );
    check("alice allocates; alice refreshes lifetime=0; alice allocates; alice permits bob");
}

#[test]
fn a_named_family_is_the_allocations() {
    check("alice allocates; alice refreshes family=4");
    check("alice allocates; alice refreshes family=6 => 443; alice refreshes");
    check("alice allocates family=6; alice refreshes family=6; alice refreshes family=4 => 443");
    check("alice allocates; alice refreshes family=9 => 443");
    check("alice allocates; alice refreshes family=6 lifetime=0 => 443; alice refreshes");
    check("alice allocates; alice refreshes attribute=0017/1 => 400");
}

#[test]
fn of_two_families_a_named_one_is_refreshed_alone() {
    let both = "alice allocates additional=6";
    check(&format!(
        "{both}; 300s pass; alice refreshes family=6 => only ok 600; 299s pass => nothing; \
         1s pass => close; alice refreshes family=4 => 443; \
         alice refreshes family=6 => only ok 600; \
         600s pass => close; alice refreshes => 437"
    ));
    check(&format!(
        "{both}; 300s pass; alice refreshes => only ok 600; 599s pass => nothing; \
         1s pass => only close, close; alice refreshes => 437"
    ));
    check(&format!("{both}; alice refreshes family=9 => 443; alice refreshes family=4"));
}

#[test]
fn of_two_families_a_named_one_is_deleted_alone() {
    let both = "alice allocates additional=6";
    check(&format!(
        "{both}; alice refreshes family=4 lifetime=0 => only close, ok 0; alice refreshes; \
         alice refreshes family=4 lifetime=0 => 443; alice allocates => 437; \
         alice refreshes family=6 lifetime=0 => only close, ok 0; alice refreshes => 437; \
         alice allocates"
    ));
    check(&format!("{both}; alice refreshes lifetime=0 => only close, close, ok 0"));
    // Permissions and channels of the other are not touched (§8.1).
    check(&format!(
        "{both}; alice binds 4000 to bob; alice binds 4001 to bob6; \
         alice refreshes family=6 lifetime=0 \
         => only forbid 2a00:9::1, withdraw 4001, close, ok 0; \
         alice sends 5 on 4000 => to bob 5; alice sends 5 on 4001 => unbound_channel; \
         alice binds 4001 to carol; alice permits bob6 => 443; alice binds 4002 to bob6 => 443"
    ));
    // Nor is a number banned that belonged to what was deleted.
    check(&format!("{both}; alice binds 4000 to bob; 600s pass unnoticed; alice refreshes => 437"));
}

#[test]
fn of_two_families_each_has_its_own_deadline_in_the_datapath() {
    check(
        "alice allocates additional=6; alice binds 4000 to bob => install 4000 600/300, ok; \
         alice binds 4001 to bob6 => install 4001 600/300, ok; 500s pass; \
         alice binds 4000 to bob => only permit 9.9.9.1 100/100, install 4000 100/100, ok; \
         alice refreshes family=4 => only permit 9.9.9.1 300/600, install 4000 600/300, \
         install 4001 100/0, ok 600; \
         100s pass => only withdraw 4001, close; alice sends 5 on 4000 => to bob 5",
    );
}

#[test]
fn data_refreshes_nothing() {
    check(
        "alice allocates; alice permits bob; 299s pass; peer bob sends 5 to alice; \
         alice sends 5 to bob; 1s pass; peer bob sends 5 to alice => no_permission; \
         alice sends 5 to bob => no_permission",
    );
    check(
        "alice allocates lifetime=1000; alice binds 4000 to bob; 599s pass; alice sends 5 on 4000; \
         1s pass => withdraw 4000; alice sends 5 on 4000 => unbound_channel",
    );
    check(
        "alice allocates; alice binds 4000 to bob; 599s pass; alice sends 5 on 4000; \
         1s pass => close; alice sends 5 on 4000 => no_allocation; \
         peer bob sends 5 to alice => stale_allocation",
    );
}

#[test]
fn the_datapath_follows_the_earliest_deadline() {
    check(
        "alice allocates lifetime=700; alice binds 4000 to bob => install 4000 600/300, ok; \
         200s pass; alice binds 4000 to bob => install 4000 500/300, ok; \
         alice refreshes => install 4000 600/300, ok 600",
    );
    check(
        "alice allocates lifetime=3600; alice binds 4000 to bob; alice refreshes => ok 600; \
         100s pass; alice refreshes lifetime=3600 => ok 3600; \
         alice refreshes lifetime=3600 => only ok 3600",
    );
    // Without a permission nothing comes back, and a refresh does not change that.
    check(
        "alice allocates; alice binds 4000 to bob; 300s pass => only forbid 9.9.9.1; 10s pass; \
         alice binds 4001 to carol => install 4001 290/290, ok; \
         alice refreshes => only permit 9.9.9.2 300/600, install 4000 290/0, \
         install 4001 600/300, ok 600",
    );
}

#[test]
fn a_late_deadline_is_kept_all_the_same() {
    let bound = "alice allocates lifetime=700; alice binds 4000 to bob";
    check(&format!(
        "{bound}; 600s pass unnoticed; alice sends 5 on 4000 \
         => only forbid 9.9.9.1, withdraw 4000, unbound_channel"
    ));
    check(&format!(
        "{bound}; 300s pass unnoticed; peer bob sends 5 to alice \
         => only forbid 9.9.9.1, no_permission"
    ));
    check(&format!(
        "{bound}; 700s pass unnoticed; alice refreshes \
         => only forbid 9.9.9.1, withdraw 4000, close, 437"
    ));
}

#[test]
fn what_comes_for_an_allocation_that_is_over_finds_no_other() {
    check(
        "alice allocates; alice permits bob; alice refreshes lifetime=0; anna allocates; \
         anna permits bob; peer bob sends 5 to alice => only stale_allocation; \
         peer bob sends 5 to anna => to anna data bob 5",
    );
}
