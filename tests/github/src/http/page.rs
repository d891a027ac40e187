//! Pagination: `per_page`, `page`, and the `Link` header.

use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::Reply;

/// `per_page` and `page`, as strings because a flattened query has nothing else.
#[derive(Deserialize)]
pub(crate) struct Page {
    per_page: Option<String>,
    page: Option<String>,
}

impl Page {
    /// One page of `all` under `key`, with the `Link` header to its neighbours.
    pub(crate) fn cut(&self, key: &str, all: Vec<Value>, url: &str, query: &str) -> Reply {
        let (items, link, total) = self.pick(all, url, query);
        let mut body = json!({ "total_count": total });
        body[key] = Value::Array(items);
        Reply::ok(body).link(&link)
    }

    /// The items of this page, the `Link` header and the number of all items.
    pub(crate) fn pick(
        &self,
        all: Vec<Value>,
        url: &str,
        query: &str,
    ) -> (Vec<Value>, String, usize) {
        let number = |text: &Option<String>, default: usize| {
            text.as_ref()
                .and_then(|text| text.parse().ok())
                .filter(|number| *number > 0)
                .unwrap_or(default)
        };
        let size = number(&self.per_page, 30).min(100);
        let page = number(&self.page, 1);
        let total = all.len();
        let last = total.div_ceil(size).max(1);
        let mut links = Vec::new();
        let mut link = |page: usize, relation: &str| {
            links.push(format!(
                "<{url}?{query}per_page={size}&page={page}>; rel=\"{relation}\""
            ));
        };
        if page > 1 {
            link(page - 1, "prev");
            link(1, "first");
        }
        if page < last {
            link(page + 1, "next");
            link(last, "last");
        }
        let items = all.into_iter().skip((page - 1) * size).take(size).collect();
        (items, links.join(", "), total)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_links_to_its_neighbours() {
        let pick = |page: &str| {
            let wanted = Page {
                per_page: Some("2".to_owned()),
                page: Some(page.to_owned()),
            };
            wanted.pick((0..5).map(Value::from).collect(), "http://x/l", "")
        };
        let (items, link, total) = pick("2");
        assert_eq!((items, total), (vec![json!(2), json!(3)], 5));
        assert!(
            link.contains("<http://x/l?per_page=2&page=3>; rel=\"next\""),
            "{link}"
        );
        assert!(link.contains("page=1>; rel=\"prev\""), "{link}");
        assert!(!pick("3").1.contains("next"));
        assert!(pick("4").0.is_empty());
    }
}
