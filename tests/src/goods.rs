//! Goods and buyers of the shop.

use anyhow::Result;
use uuid::Uuid;

use crate::{client::Client, cluster::Cluster};

impl Cluster {
    /// Two products on the first peer and one on the second, `pieces` of each in one warehouse, and a customer on the
    /// second.
    ///
    /// # Errors
    /// If one can't be added.
    pub async fn stock(&self, client: &Client, peers: [&str; 2], pieces: i32) -> Result<(Vec<i64>, i64)> {
        let mut products = self.roots_on("product", peers[0], None, 2);
        products.extend(self.roots_on("product", peers[1], None, 1));
        let customer = self.roots_on("customer", peers[1], None, 1)[0];
        for product in &products {
            let key = product.to_string();
            let item = [("product_id", key.as_str()), ("name", "thing"), ("price", "5")];
            client.settle("add_catalogue_item", &item, Uuid::now_v7()).await?;
        }
        for product in &products {
            let (key, pieces) = (product.to_string(), pieces.to_string());
            self.wait_for_reference(&format!("select count(*) from catalogue where product_id = {key}"), 1).await?;
            client.settle("add_product", &[("product_id", &key)], Uuid::now_v7()).await?;
            let stock = [("product_id", key.as_str()), ("warehouse", "main"), ("quantity", &pieces)];
            client.settle("add_stock", &stock, Uuid::now_v7()).await?;
        }
        client.settle("add_customer", &[("customer_id", &customer.to_string()), ("name", "buyer")], Uuid::now_v7()).await?;
        Ok((products, customer))
    }
}

/// The list of lines that `place_order` takes.
pub fn order_lines(products: &[i64], quantities: &[i64]) -> String {
    let line = |(product, quantity): (&i64, &i64)| format!(r#"{{"product_id": {product}, "quantity": {quantity}, "unit_price": 5.00}}"#);
    format!("[{}]", products.iter().zip(quantities).map(line).collect::<Vec<_>>().join(", "))
}
