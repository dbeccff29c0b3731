//! `apc cluster im list`, `apc tag list`.
//!
//! Deliberately absent: changing the cluster.

use crate::failure::Failure;
use crate::screen::Screen;
use crate::session::Session;
use crate::table::Table;
use crate::units;
use serde_json::Value;
use wire::health::{ImRecord, ImView};

/// `apc cluster im list`
pub(super) async fn ims(session: &Session) -> Result<(), Failure> {
    let mut all: Vec<Value> = session.client()?.list("/instance_managers").await?;
    if session.print_json(&all)? {
        return Ok(());
    }
    let mut views: Vec<ImView> = all.drain(..).filter_map(view_of).collect();
    views.sort_by(|a, b| {
        (&a.record.hostname, a.record.uuid).cmp(&(&b.record.hostname, b.record.uuid))
    });
    Screen::data(&table_of(&views).render());
    Ok(())
}

/// With its health, or the bare record.
fn view_of(value: Value) -> Option<ImView> {
    if let Ok(view) = serde_json::from_value::<ImView>(value.clone()) {
        return Some(view);
    }
    let record: ImRecord = serde_json::from_value(value).ok()?;
    Some(ImView { record, lost: false, beat_age_ms: 0 })
}

fn table_of(views: &[ImView]) -> Table {
    let mut table = Table::new(&[
        "Hostname",
        "Datacenter",
        "State",
        "Instances",
        "Memory",
        "Disk",
        "Tags",
        "UUID",
    ]);
    for view in views {
        let record = &view.record;
        let (used, total) = (&record.resources_provisioned, &record.resources_total);
        let tags: Vec<&str> =
            record.tags.iter().chain(&record.system_tags).map(String::as_str).collect();
        table.row([
            record.hostname.clone(),
            record.datacenter.clone(),
            if view.lost { "lost" } else { "live" }.to_owned(),
            record.num_instances.to_string(),
            format!("{}/{}", units::show_about(used.memory), units::show_about(total.memory)),
            format!("{}/{}", units::show_about(used.disk), units::show_about(total.disk)),
            tags.join(", "),
            record.uuid.to_string(),
        ]);
    }
    table
}

/// `apc tag list`
pub(super) async fn tags(session: &Session) -> Result<(), Failure> {
    let answer: Value = session.client()?.get("/tags").await?;
    if session.print_json(&answer)? {
        return Ok(());
    }
    let mut table = Table::new(&["Tag", "Instance Managers"]);
    for (tag, managers) in tag_rows(&answer) {
        table.row([tag, managers]);
    }
    Screen::data(&table.render());
    Ok(())
}

/// A list of names, of objects with a name, or an object by name.
fn tag_rows(answer: &Value) -> Vec<(String, String)> {
    let count = |value: &Value| match value {
        Value::Array(items) => items.len().to_string(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    let of_object = |fields: &serde_json::Map<String, Value>| {
        let name =
            ["tag", "name"].iter().find_map(|key| fields.get(*key)).and_then(Value::as_str)?;
        let managers = fields.values().find(|value| value.is_array() || value.is_number());
        Some((name.to_owned(), managers.map(count).unwrap_or_default()))
    };
    match answer {
        Value::Array(items) => items
            .iter()
            .filter_map(|item| match item {
                Value::String(name) => Some((name.clone(), String::new())),
                Value::Object(fields) => of_object(fields),
                _ => None,
            })
            .collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), count(value))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Goal: the table of machines, byte for byte.
    #[test]
    fn machines() {
        let uuid = "3b0a6209-5dcf-408c-8941-cf9f44295f58";
        let view = view_of(json!({
            "uuid": uuid, "hostname": "im1", "datacenter": "dc", "tags": ["ssd"], "system_tags": [], "num_instances": 2,
            "start_time_ms": 1, "resources_total": {"memory": 1_u64 << 34, "disk": 1_u64 << 40},
            "resources_provisioned": {"memory": 512 << 20, "disk": 2_u64 << 30},
        }));
        assert_eq!(
            table_of(&[view.unwrap()]).render(),
            "\
╭──────────┬────────────┬───────┬───────────┬──────────────────┬───────────────┬──────┬──────────────────────────────────────╮
│ Hostname │ Datacenter │ State │ Instances │ Memory           │ Disk          │ Tags │ UUID                                 │
├──────────┼────────────┼───────┼───────────┼──────────────────┼───────────────┼──────┼──────────────────────────────────────┤
│ im1      │ dc         │ live  │ 2         │ 512.0MiB/16.0GiB │ 2.0GiB/1.0TiB │ ssd  │ 3b0a6209-5dcf-408c-8941-cf9f44295f58 │
╰──────────┴────────────┴───────┴───────────┴──────────────────┴───────────────┴──────┴──────────────────────────────────────╯
"
        );
    }

    /// Goal: each shape of the answer gives the same names.
    #[test]
    fn tags_in_each_shape() {
        for answer in
            [json!(["a", "b"]), json!([{"tag": "a"}, {"name": "b"}]), json!({"a": [1], "b": []})]
        {
            let names: Vec<String> = tag_rows(&answer).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["a", "b"]);
        }
    }
}
