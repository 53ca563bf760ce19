"""All that knows the portal: windows, responses, requests, and the names that it gives to places and carriers."""
