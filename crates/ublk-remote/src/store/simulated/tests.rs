use super::*;
use crate::store::{Store, StoreErrorKind};

fn body(text: &str) -> Vec<Bytes> {
    vec![Bytes::copy_from_slice(text.as_bytes())]
}

/// What clients do in some weather, as text.
async fn story(seed: u64) -> String {
    let bucket = Bucket::new(seed, Weather::stormy());
    let clients = [bucket.client(), bucket.client()];
    let mut told = Vec::new();
    for number in 0..60 {
        for client in &clients {
            let key = format!("log/{:02}", number % 20);
            told.push(format!("{:?}", client.create(&key, body(&number.to_string())).await));
            told.push(format!("{:?}", client.get(&key, Some(0..1)).await));
            told.push(format!("{:?}", client.list("log/", Some("log/03")).await));
            if number % 7 == 0 {
                told.push(format!("{:?}", client.delete(vec![key]).await));
            }
        }
    }
    format!("{told:?} {:?} {:?}", bucket.effects(), bucket.contents())
}

#[tokio::test(start_paused = true)]
async fn a_seed_tells_the_same_story_again_and_another_one_another() {
    assert_eq!(story(7).await, story(7).await);
    assert_ne!(story(7).await, story(8).await);
}

#[tokio::test(start_paused = true)]
async fn in_calm_weather_it_is_a_store() {
    let bucket = Bucket::new(1, Weather { page: 3, ..Weather::calm() });
    let store = bucket.client();
    for number in 0..10 {
        assert_eq!(store.create(&format!("log/{number}"), body("one")).await, Ok(Created::Won));
    }
    assert_eq!(store.create("log/1", body("two")).await, Ok(Created::Exists));
    assert_eq!(store.get("log/1", None).await.unwrap(), "one");
    assert_eq!(store.get("log/1", Some(1..9)).await.unwrap(), "ne");
    assert_eq!(store.get("log/1", Some(7..9)).await.unwrap(), "");
    assert_eq!(store.get("log/x", None).await.unwrap_err().kind, StoreErrorKind::NotFound);
    store.create("map", body("m")).await.unwrap();
    store.delete(vec!["log/2".into(), "log/none".into()]).await.unwrap();
    let keys = |entries: Vec<Entry>| entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(store.list("log/", Some("log/0")).await.unwrap()),
        "log/1 log/3 log/4 log/5 log/6 log/7 log/8 log/9"
    );
    assert_eq!(store.counters().lists, 3);
    assert_eq!(store.counters().failures, 0);
    let entry = store.list("map", None).await.unwrap().remove(0);
    assert!(
        entry.size == 1
            && bucket.now().duration_since(entry.changed.unwrap()).unwrap() < Duration::from_secs(1)
    );
}

/// What happened to one creation in a weather of one kind.
async fn one(weather: Weather) -> (Result<Created, StoreErrorKind>, usize, usize) {
    let bucket = Bucket::new(3, weather);
    let created = bucket.client().create("a", body("a")).await.map_err(|error| error.kind);
    let then = bucket.effects().len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    (created, then, bucket.effects().len())
}

#[tokio::test(start_paused = true)]
async fn errors_come_before_or_after_the_effect_and_effects_late_or_twice() {
    let unavailable = Err(StoreErrorKind::Unavailable);
    assert_eq!(one(Weather { refused: 1.0, ..Weather::calm() }).await, (unavailable, 0, 0));
    assert_eq!(one(Weather { lost: 1.0, ..Weather::calm() }).await, (unavailable, 1, 1));
    assert_eq!(one(Weather { late: 1.0, ..Weather::calm() }).await, (unavailable, 0, 1));
    assert_eq!(one(Weather { twice: 1.0, ..Weather::calm() }).await, (Ok(Created::Won), 1, 2));
}

#[tokio::test(start_paused = true)]
async fn of_many_creators_one_wins_and_with_a_lying_store_several() {
    for lies in [false, true] {
        let mut several = 0;
        for seed in 0..20 {
            let make = if lies { Bucket::that_lies } else { Bucket::new };
            let bucket = make(seed, Weather::calm());
            let tasks: Vec<_> = (0..8)
                .map(|number: u32| {
                    let client = bucket.client();
                    tokio::spawn(
                        async move { client.create("key", body(&number.to_string())).await.unwrap() },
                    )
                })
                .collect();
            let mut winners = Vec::new();
            for (number, task) in tasks.into_iter().enumerate() {
                if task.await.unwrap() == Created::Won {
                    winners.push(number.to_string());
                }
            }
            several += usize::from(winners.len() > 1);
            let kept = String::from_utf8(bucket.object("key").unwrap().to_vec()).unwrap();
            assert!(winners.contains(&kept));
        }
        assert_eq!(several > 0, lies);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_gives_up_or_a_dead_client_has_sent_may_land() {
    let bucket = Bucket::new(5, Weather::calm());
    let client = bucket.client();
    let given_up = tokio::time::timeout(Duration::from_millis(1), client.create("given up", body("x"))).await;
    assert!(given_up.is_err() && bucket.object("given up").is_none());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(bucket.object("given up").is_some());

    let mut landed = 0;
    for number in 0..40 {
        let client = bucket.client();
        let key = format!("dead/{number}");
        let created = tokio::spawn(client.create(&key, body("x")));
        tokio::time::sleep(Duration::from_millis(1)).await;
        client.crash();
        assert_eq!(created.await.unwrap().unwrap_err().kind, StoreErrorKind::Refused);
        assert_eq!(client.get("x", None).await.unwrap_err().kind, StoreErrorKind::Refused);
        tokio::time::sleep(Duration::from_secs(60)).await;
        landed += usize::from(bucket.object(&key).is_some());
    }
    assert!((15..40).contains(&landed), "{landed} of 40 landed");
}

#[tokio::test(start_paused = true)]
async fn outages_end_and_a_frozen_client_hears_later() {
    let bucket = Bucket::new(6, Weather::calm());
    let (one, other) = (bucket.client(), bucket.client());
    bucket.outage(Duration::from_secs(5));
    assert_eq!(one.list("", None).await.unwrap_err().kind, StoreErrorKind::Unavailable);
    tokio::time::sleep(Duration::from_secs(5)).await;
    one.list("", None).await.unwrap();

    one.cut_off(Duration::from_secs(5));
    assert_eq!(one.list("", None).await.unwrap_err().kind, StoreErrorKind::Unavailable);
    other.list("", None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;

    let began = Instant::now();
    let creating = tokio::spawn(one.create("frozen", body("x")));
    tokio::time::sleep(Duration::from_millis(1)).await;
    one.freeze(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(bucket.object("frozen").is_some() && !creating.is_finished());
    assert_eq!(creating.await.unwrap(), Ok(Created::Won));
    assert!(began.elapsed() >= Duration::from_secs(60));
}
