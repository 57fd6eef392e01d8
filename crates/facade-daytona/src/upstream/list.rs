//! Lists of the upstream's sandboxes, which go on where those of this server end.

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, header};
use reqwest::Url;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Upstream, rewrite};
use crate::{base_url::BaseUrl, error::ApiResult};

/// Most pages that are read to make one array.
const PAGES_MAX: usize = 100;
/// Sandboxes in each of them.
const PAGE_ITEMS: usize = 100;
/// What says which part of a list is wanted, and is not passed on.
const PAGING: [&str; 3] = ["page", "limit", "cursor"];
/// Where sandboxes are listed.
const LIST: &str = "/sandbox";
/// Where they are listed in numbered pages.
const NUMBERED: &str = "/sandbox/paginated";

/// Sandboxes of the upstream, as it wrote them but for the URLs.
pub(crate) type Items = Vec<Box<RawValue>>;

/// What is listed, and for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing<'a> {
    /// The headers of the request.
    pub(crate) headers: &'a HeaderMap,
    /// Its query: filters and order.
    pub(crate) pairs: &'a [(String, String)],
    /// Where URLs in the answer lead to.
    pub(crate) base: &'a BaseUrl,
}

/// A page in any shape: an array has no more to say.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Page {
    items: Items,
    total: usize,
    next_cursor: Option<String>,
}

impl Upstream {
    /// All that match, for SDKs that know no pages. Newer upstreams answer in
    /// pages whoever asks.
    ///
    /// # Errors
    /// What the upstream says, or that it says nothing.
    pub(crate) async fn all(&self, listing: &Listing<'_>) -> ApiResult<Items> {
        let mut page = self.page(listing, LIST, &[]).await?;
        let mut all = std::mem::take(&mut page.items);
        for _ in 1..PAGES_MAX {
            let Some(cursor) = page.next_cursor else {
                return Ok(all);
            };
            let next = [("cursor", cursor), ("limit", PAGE_ITEMS.to_string())];
            page = self.page(listing, LIST, &next).await?;
            all.append(&mut page.items);
        }
        match page.next_cursor {
            None => Ok(all),
            Some(_) => Err(self.failed(&format!(
                "has more than {PAGES_MAX} pages of sandboxes; use a newer SDK, which reads them one by one"
            ))),
        }
    }

    /// At most `limit` that follow a cursor of the upstream, and the next cursor.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub(crate) async fn page_after(
        &self,
        listing: &Listing<'_>,
        cursor: Option<&str>,
        limit: usize,
    ) -> ApiResult<(Items, Option<String>)> {
        let mut paging = vec![("limit", limit.to_string())];
        paging.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        let page = self.page(listing, LIST, &paging).await?;
        Ok((page.items, page.next_cursor))
    }

    /// `count` from the one of the number `first`, counted from 0, and how many
    /// there are at all. `count` is at most `limit`, the length of the upstream's pages.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub(crate) async fn slice(
        &self,
        listing: &Listing<'_>,
        first: usize,
        count: usize,
        limit: usize,
    ) -> ApiResult<(Items, usize)> {
        let number = first / limit + 1;
        let skipped = first % limit;
        let page = self.numbered(listing, number, limit).await?;
        let mut items = page.items;
        if skipped + count > limit && items.len() == limit {
            let mut next = self.numbered(listing, number + 1, limit).await?;
            items.append(&mut next.items);
        }
        let items = items.into_iter().skip(skipped).take(count);
        Ok((items.collect(), page.total))
    }

    async fn numbered(
        &self,
        listing: &Listing<'_>,
        number: usize,
        limit: usize,
    ) -> ApiResult<Page> {
        let paging = [("page", number.to_string()), ("limit", limit.to_string())];
        self.page(listing, NUMBERED, &paging).await
    }

    async fn page(
        &self,
        listing: &Listing<'_>,
        path: &str,
        paging: &[(&str, String)],
    ) -> ApiResult<Page> {
        let filters = listing
            .pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !PAGING.contains(name));
        let paging = paging.iter().map(|(name, value)| (*name, value.as_str()));
        let mut url =
            Url::parse("http://query/").map_err(|error| self.failed(&error.to_string()))?;
        url.query_pairs_mut().extend_pairs(filters.chain(paging));
        let target = match url.query().unwrap_or_default() {
            "" => path.to_owned(),
            query => format!("{path}?{query}"),
        };
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.headers_mut() = listing.headers.clone();
        request.headers_mut().remove(header::CONTENT_LENGTH);
        let answer = self.exchange(&target, request).await?;
        let status = answer.status();
        let body = self.whole(answer).await?;
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        let rewritten =
            rewrite::sandboxes(&body, listing.base, &|id, url| self.learn_toolbox(id, url));
        let body = rewritten.as_deref().unwrap_or(&body);
        let read = match serde_json::from_slice::<Items>(body) {
            Ok(items) => Ok(Page {
                items,
                ..Page::default()
            }),
            Err(_) => serde_json::from_slice::<Page>(body),
        };
        read.map_err(|error| self.failed(&format!("gave a list that is not understood: {error}")))
    }
}
